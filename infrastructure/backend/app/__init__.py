"""A small investment-analysis platform: enough of one to be backed up, watched, scaled and rolled out."""
