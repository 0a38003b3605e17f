"""Recognition without decoding: a softmax head on what the entropy decoder gives, straight from an archive's shards.

`shards` reads features, `head` is the head and its file, `fit` trains it, `work` is what a job's workers do.
"""

from cnnbatch.classification.fit import Fitted, HeadTraining, fit
from cnnbatch.classification.head import Head, HeadSettings, dump_head, parse_head
from cnnbatch.classification.recognition import CODEC_HEAD, CodecHeads, FileHead, Recogniser, learned_classes
from cnnbatch.classification.shards import Features, LeftOut, read_features
from cnnbatch.classification.work import (
    PREDICTIONS,
    FeatureWriter,
    Predictor,
    label_tasks,
    read_written,
)

__all__ = [
    "CODEC_HEAD",
    "PREDICTIONS",
    "CodecHeads",
    "FeatureWriter",
    "Features",
    "FileHead",
    "Fitted",
    "Head",
    "HeadSettings",
    "HeadTraining",
    "LeftOut",
    "Predictor",
    "Recogniser",
    "dump_head",
    "fit",
    "label_tasks",
    "learned_classes",
    "parse_head",
    "read_features",
    "read_written",
]
