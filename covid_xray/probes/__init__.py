"""Tests of what a network uses: saliency maps, shortcut tests, source probe."""
