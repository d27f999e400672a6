"""The web service of serveModel.py: a run that listens (listener), who may enter (guard), the answers (shapes, app)."""
