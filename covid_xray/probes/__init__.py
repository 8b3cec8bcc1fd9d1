"""Tests of what a network looks at: saliency maps, shortcut tests, source probe."""
