"""What the page says of its drawings: how each is read, and what it does not show. Sentences only."""

from __future__ import annotations

PAPER = (
    "Paper protocol: histories may hold the very review that states the rating. Errors of the head under it, its "
    "ablations, calibration and buckets are no results. The strict head beside it is one."
)
ACCURACY = (
    "Left of the line is better than predicting from user and item biases alone. A filled point: the interval excludes "
    "zero; a hollow one: it does not, or there is none. Small points are single splits. An arrow goes on beyond the "
    "drawing."
)
OWN_TEXT = (
    "The impossible row reads the very review that states the rating, before it could have been written: no "
    "recommender can do that. It tells how much a text gives away."
)
ABLATION = (
    "The same head with one thing changed at a time. Right of the line it got worse without: that thing helps. Where "
    "the interval includes zero, nothing is shown either way."
)
CALIBRATION = (
    "Test pairs in ten groups of like size, by the head's prediction. On the dashed line a prediction of 4 is rated 4 "
    "in the mean; a flatter row of points means predictions that are too bold, a steeper one too timid. With few pairs "
    "a group, points scatter by chance."
)
BY_HISTORY = (
    "Pairs by how many training reviews their user or item has, whichever has fewer: 0 is a cold start. All splits "
    "together."
)
BY_RATING = (
    "Pairs by the rating that was given. Whoever predicts near the mean is best at the commonest rating and worst at "
    "rare ones. All splits together."
)
HEADS = (
    "Each on one split. The network share is how much of the network's output validation found worth adding to the "
    "biases and the linear readout; at 0 the head is these alone."
)
CURVE = (
    "Mean squared errors; of many training steps, their running mean. The ring marks the best validation. The scale "
    "need not start at zero."
)
THROUGHPUT = (
    "The last run of each domain and encoder that computed anything, from table to last commit. Short runs are slower "
    "than long ones: starting up counts as well."
)
STAGES = (
    "Seconds in which each stage was busy; a full bar was busy all the time. Stages overlap, so they do not add up; "
    "the fullest one is what the run waited for. Setup, opening and proving the runtime, comes before."
)
PARITY = (
    "How far each runtime's vectors are from the float32 reference over the probes of the export. An export that "
    "misses the gate of its precision is not finished."
)
NO_RUNTIME = "The exports name no runtime that was measured."
LINEAGE = "Each with all that it was trained on top of, folded or merged of, or fitted on."
PLUGINS = (
    "Ratings from a review's own text, which is what a plugin is trained on and no measure of a recommender. The "
    "variance is what predicting the mean of these test ratings would cost: a ratio well below 1 has learnt something."
)
SIMILARITY = (
    "On the diagonal: two draws of one domain that share no text. Domains that are alike may teach one another; it is "
    "no more than a hint."
)
FOOT = (
    "The same files give the same page. Commands are meant to be run in the workspace's folder; from elsewhere add -w "
    "and its path."
)
MISSING = "Not measured yet. What would fill the gap (an encode that finds every text stored already measures nothing):"
