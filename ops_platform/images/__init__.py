"""Images: built from their Dockerfiles, started, listed, scanned and pushed; nothing that fails reaches a tag."""
