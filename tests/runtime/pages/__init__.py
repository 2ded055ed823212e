"""Tests of the parts of HTML pages."""
