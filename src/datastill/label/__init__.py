"""What a student is told about an image."""

from datastill.label.dense import Dense
from datastill.label.dynamic import Dynamic
from datastill.label.hard import Hard
from datastill.label.replayed import Replayed
from datastill.label.static import Static
from datastill.label.views import Views

__all__ = ["Dense", "Dynamic", "Hard", "Replayed", "Static", "Views"]
