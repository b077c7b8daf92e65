"""The model card: what a model is, what it was trained on, and how good it is.

Every number is copied from ``config.json``, ``history.json``, ``metrics.json``,
``NAME.json`` or `Statements`.  If none of them states a fact, the card calls it
unknown.  The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afad_tfdata.describing import card_markdown, licence_and_origin, model_card_files

FILE_NAME = "model_card.md"
# Metrics in the order of the table, with their names and units.
_METRICS = {
    "accuracy": "gender: accuracy",
    "balanced_accuracy": "gender: balanced accuracy",
    "auc": "gender: AUC",
    "mae": "age: mean absolute error, years",
    "rmse": "age: root mean square error, years",
    "cs5": "age: share of errors up to 5 years (CS@5)",
    "bias": "age: mean of estimate minus age, years",
}
_BY_GROUP = ("accuracy", "mae", "bias")
# The options that say most about how the model was trained; config.json has them all.
_OPTIONS = (
    *("task", "backbone", "weights", "age_head", "stage", "recipe", "epochs"),
    *("global_batch_size", "optimizer", "learning_rate", "schedule", "weight_decay"),
    *("augment", "class_weight", "age_weight", "gender_weight", "seed"),
)


def write(
    known: model_card_files.ModelFiles,
    *,
    title: str,
    license: str,
    stated: licence_and_origin.Statements,
) -> str:
    """The model card as Markdown.

    Args:
      known: The files of the model.
      title: Its name, for people; empty for that of its files.
      license: Of the model; empty if it is unknown.
      stated: What is known about the data set that it was trained on.
    """
    parts = [
        _header(known, title, license, stated),
        f"# Model card: {card_markdown.text(title or known.name)}",
        _about_model(known),
        "## Intended use and limits",
        _limits_of_model(known, stated),
        "## Training",
        _how_trained(known, stated),
        "## Evaluation",
        _how_good(known),
    ]
    if known.graph:
        parts += ["## Graph", _about_graph(known.graph)]
    parts += ["## How to use it", _how_to_use(known)]
    parts += ["## Licence and citation", _rights_of_model(license, stated)]
    return "\n\n".join(parts) + "\n"


def _header(
    known: model_card_files.ModelFiles,
    title: str,
    license: str,
    stated: licence_and_origin.Statements,
) -> str:
    """The YAML header of a model card, which the hub reads."""
    values = {
        name: known.metrics[name]
        for name in ("accuracy", "auc", "mae", "rmse")
        if isinstance(known.metrics.get(name), int | float)
    }
    index = {
        "name": title or known.name,
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {
                    "name": stated.title or "unknown",
                    "type": "unknown",
                    "split": known.metrics.get("split", "unknown"),
                },
                "metrics": [{"type": k, "value": v} for k, v in values.items()],
            }
        ],
    }
    return card_markdown.header(
        {
            "license": "other" if license else "unknown",
            "license_name": license,
            # A graph alone is for any program.  The hub has no name for that.
            "library_name": "keras" if known.run else None,
            "pipeline_tag": "image-classification",
            "tags": ["faces", *known.labels],
            "metrics": list(values),
            "model-index": [index] if values else [],
        }
    )


def _about_model(known: model_card_files.ModelFiles) -> str:
    """The model card's section on what the model estimates, and by which network."""
    network = known.network
    labels = " and the ".join(known.labels)
    lines = [
        f"It estimates the {labels} of a face that fills the image."
        if labels
        else "What it estimates is unknown.",
        card_markdown.items(
            [
                f"Network: {card_markdown.text(network.get('backbone'))}",
                *(
                    [f"Age head: {card_markdown.text(network.get('age_head'))}"]
                    if "age" in known.labels
                    else []
                ),
                f"Input: {_image_size_text(network, known.graph)}",
            ]
        ),
    ]
    return "\n\n".join(lines)


def _image_size_text(network: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    """Size of the images that the model takes, as the model card shows it."""
    size = graph.get("image_size") or network.get("image_size")
    return f"{size} x {size} pixels, RGB" if size else "unknown"


def _limits_of_model(
    known: model_card_files.ModelFiles, stated: licence_and_origin.Statements
) -> str:
    """The model card's section on what the model is not good for."""
    ages = known.graph.get("age_range") or known.run.get("age_range")
    names = known.graph.get("class_names") or known.run.get("class_names") or ()
    limits = []
    if "age" in known.labels:
        limits.append(
            f"It was trained on ages from {ages[0]} to {ages[1]} only. What it says"
            " about younger or older faces means nothing."
            if ages
            else "The ages that it was trained on are unknown."
        )
    if "gender" in known.labels:
        shown = " and ".join(card_markdown.text(name) for name in names) or "unknown"
        limits.append(
            f"The gender is one of the two classes in its data ({shown}), guessed from"
            " how a face looks."
        )
    limits += [card_markdown.text(limit) for limit in stated.limits]
    limits += [
        "How well it works for people unlike those in its data is unknown.",
        "No decision about a person should rest on its estimate alone.",
    ]
    return card_markdown.items(limits)


def _how_trained(
    known: model_card_files.ModelFiles, stated: licence_and_origin.Statements
) -> str:
    """The model card's section on the training."""
    if not known.run:
        return "How it was trained is unknown: no run is named."
    train = known.run["train"]
    data = card_markdown.text(stated.title) if stated.title else "an unnamed data set"
    number = card_markdown.number(known.run.get("train_examples"))
    lines = [f"It was trained on {data}: {card_markdown.text(number)} training images."]
    epochs = known.history.get("epochs") or []
    if epochs:
        last = epochs[-1]
        lines.append(
            f"{len(epochs):,} epochs were trained, {last['step']:,} steps."
            f"\n\n{_last_epoch_table(last)}"
        )
    else:
        lines.append("How many epochs were trained is unknown.")
    # The network says what a flag came to: the default imagenet is none in a small
    # network, and the weights of the preset in one of keras-hub.
    used = {**train, **(known.run.get("model") or {})}
    rows = [[name, _option_text(used[name])] for name in _OPTIONS if name in train]
    rows += [
        [name, _option_text(known.run[name])]
        for name in ("precision", "replicas", "tensorflow", "keras")
        if name in known.run
    ]
    lines.append(card_markdown.table(["option", "value"], rows))
    return "\n\n".join(lines)


def _last_epoch_table(last: Mapping[str, Any]) -> str:
    """The model card's table of the last epoch."""
    parts = {part: last.get(part) or {} for part in ("train", "validation")}
    names = [n for n in ("loss", "accuracy", "mae") if n in parts["train"]]
    rows = [
        [name, *(_metric_or_text(values.get(name)) for values in parts.values())]
        for name in names
    ]
    return card_markdown.table(["last epoch", *parts], rows)


def _how_good(known: model_card_files.ModelFiles) -> str:
    """The model card's section on the metrics of an evaluation."""
    metrics = known.metrics
    if not metrics:
        return "It was not evaluated, so nobody knows how good it is."
    constant = metrics.get("constant") or {}
    intervals = metrics.get("intervals") or {}
    predicts = ", ".join(
        f"{name} {value}" for name, value in (constant.get("predicts") or {}).items()
    )
    number = card_markdown.number(metrics.get("examples"))
    lines = [
        f"On the split {card_markdown.text(metrics.get('split'))}, of"
        f" {card_markdown.text(number)} images. The"
        " constant predictor gives the same answer for every face"
        f" ({card_markdown.text(predicts)}). Where a model is no better than that, it"
        " has learnt nothing."
    ]
    if intervals:
        lines[0] += " The intervals are 95 % intervals, by bootstrap over the images."
    rows = [
        [
            title,
            _metric_or_text(metrics[name]),
            _interval_text(intervals.get(name)),
            _metric_or_text(constant.get(name)),
        ]
        for name, title in _METRICS.items()
        if metrics.get(name) is not None
    ]
    lines.append(card_markdown.table(["metric", "value", "interval", "constant"], rows))
    for key, title in (("by_gender", "gender"), ("by_age_group", "age group")):
        if metrics.get(key):
            lines.append(_metrics_by_group(metrics[key], title))
    return "\n\n".join(lines)


def _metrics_by_group(groups: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The model card's table of metrics by group."""
    names = [
        name
        for name in _BY_GROUP
        if any(row.get(name) is not None for row in groups.values())
    ]
    rows = [
        [
            group,
            row.get("examples"),
            *(_metric_or_text(row.get(name)) for name in names),
        ]
        for group, row in groups.items()
    ]
    return card_markdown.table([title, "images", *(_METRICS[n] for n in names)], rows)


def _about_graph(graph: Mapping[str, Any]) -> str:
    """The model card's section on the frozen graph: its feed and fetches."""
    (feed,) = graph["feeds"]
    items = [
        f"File: {card_markdown.text(graph['graph']['file'])},"
        f" {graph['graph']['bytes']:,} bytes, SHA-256 {graph['graph']['sha256']}",
        f"Input: {card_markdown.text(feed['name'])}, {feed['dtype']}"
        f" {card_markdown.text(_shape_text(feed['shape']))}, {feed['layout']},"
        f" {feed['channel_order']}, {card_markdown.text(feed['value'])}",
        *(
            f"Output: {card_markdown.text(fetch['name'])}, {fetch['dtype']}"
            f" {card_markdown.text(_shape_text(fetch['shape']))},"
            f" {card_markdown.text(fetch['meaning'])}"
            for fetch in graph["fetches"]
        ),
        f"Mean of the input: {_mean_text(graph.get('mean'))}",
    ]
    parity = graph["parity"]["max_difference"]
    lines = [
        card_markdown.items(items),
        "Largest difference from the model, on the images and the random input of the"
        " verification:",
        card_markdown.table(
            ["output", "difference"], [[k, f"{v:.2g}"] for k, v in parity.items()]
        ),
    ]
    times = {
        name: values["graph"]
        for name, values in (graph.get("latency_ms") or {}).items()
    }
    if times:
        lines.append(
            "Time of a run on the CPU of the machine that froze the graph (which"
            " machine that was is not recorded): "
            + ", ".join(f"{name} {value:.1f} ms" for name, value in times.items())
            + "."
        )
    if others := _other_formats(graph.get("others") or {}):
        lines.append(others)
    return "\n\n".join(lines)


def _other_formats(others: Mapping[str, Mapping[str, Any]]) -> str:
    """The model card's table of other formats, with their distance from the model."""
    if not others:
        return ""
    rows: list[list[object]] = []
    for about in others.values():
        largest, means = about["max_difference"], about.get("mean_difference")
        equal = about.get("equal_genders")
        rows.append(
            [
                about["file"],
                about["bytes"],
                *(
                    f"{largest[name]:.2g}" if name in largest else "none"
                    for name in ("age", "gender")
                ),
                "equal to the model"
                if means is None
                else ", ".join(f"{name} {value:.2g}" for name, value in means.items()),
                "not measured" if equal is None else f"{equal:.1%}",
            ]
        )
    head = [
        "other format",
        "bytes",
        "age: largest difference",
        "gender: largest difference",
    ]
    head += ["mean difference", "equal genders"]
    return card_markdown.table(head, rows)


def _how_to_use(known: model_card_files.ModelFiles) -> str:
    """The model card's section on how to use the graph or the model."""
    if known.graph:
        name = known.graph["graph"]["file"]
        return "\n\n".join(
            [
                "Each image must be the crop of one face, as in the training data.",
                card_markdown.code(
                    "from afad_tfdata import prediction\n\n"
                    f"config = prediction.PredictConfig(graph={name!r})\n"
                    'for row in prediction.predict(config, ["face.jpg"]).rows:\n'
                    "    print(row)\n",
                    "python",
                ),
                "The JSON file next to the graph says how other programs feed it.",
            ]
        )
    return "\n\n".join(
        [
            "The models of a run are Keras files:",
            card_markdown.code(
                'import keras\n\nmodel = keras.saving.load_model("best.keras")\n',
                "python",
            ),
            "`afad-freeze` writes a graph, and says how to feed it.",
        ]
    )


def _rights_of_model(license: str, stated: licence_and_origin.Statements) -> str:
    """The model card's section on licences and citation."""
    return card_markdown.items(
        [
            f"Licence of the model: {card_markdown.text(license)}",
            f"Licence of its data: {card_markdown.text(stated.license)}",
            f"To cite its data: {card_markdown.text(stated.citation)}",
            *([card_markdown.text(stated.source)] if stated.source else []),
        ]
    )


def _shape_text(shape: list[int | None]) -> str:
    """The shape of a feed or fetch for the model card, with n for the batch size."""
    return "[" + ", ".join("n" if side is None else str(side) for side in shape) + "]"


def _mean_text(mean: Mapping[str, float] | None) -> str:
    """The channel means of the model's input, as the model card shows them."""
    if not mean:
        return "unknown"
    return ", ".join(f"{name} {value:.2f}" for name, value in mean.items())


def _interval_text(value: Any) -> str:
    """The interval of a metric, as the model card shows it."""
    return f"{value[0]:.4f} to {value[1]:.4f}" if value else "not measured"


def _metric_or_text(value: Any) -> Any:
    """The value of a metric in a table of the model card."""
    return "not defined" if value is None else value


def _option_text(value: Any) -> str:
    """An option of the run, as the model card shows it; none if it is empty."""
    return str(value) if value not in ("", None) else "none"
