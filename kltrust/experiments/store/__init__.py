"""Run folders: written so that a kill at any moment leaves them whole."""
