"""How pictures and labels become few bytes, and come back."""

from datastill.codecs.labels import LabelCodec, label_error
from datastill.codecs.labels import decode as decode_labels
from datastill.codecs.labels import encode as encode_labels
from datastill.codecs.labels import problems as label_problems
from datastill.codecs.pictures import PictureCodec, decoder
from datastill.codecs.pictures import decode as decode_pictures
from datastill.codecs.pictures import encode as encode_pictures
from datastill.codecs.pictures import problems as picture_problems

__all__ = [
    "LabelCodec",
    "PictureCodec",
    "decode_labels",
    "decode_pictures",
    "decoder",
    "encode_labels",
    "encode_pictures",
    "label_error",
    "label_problems",
    "picture_problems",
]
