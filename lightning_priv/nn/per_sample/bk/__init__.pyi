from .engine import BookKeepingEngine as BookKeepingEngine
