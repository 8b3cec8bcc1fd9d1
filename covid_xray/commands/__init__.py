"""One file per command of ``covid-xray``; files that begin with an underscore are shared by several."""
