"""The original DETR as it was published: 100 queries and a softmax over classes and "no object"."""

from samdetr.modeling import SoftmaxCriterion, SoftmaxMatcher, SoftmaxPredictionHead

from .detr import model

model.decoder.head._target_ = SoftmaxPredictionHead
model.criterion._target_ = SoftmaxCriterion
model.criterion.matcher._target_ = SoftmaxMatcher
model.num_queries = 100
model.detections_per_image = "${model.num_queries}"  # one for each
