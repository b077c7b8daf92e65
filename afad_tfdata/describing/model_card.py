"""The model card: what a model is, what it was trained on, and how good it is.

Every number is copied from ``config.json``, ``history.json``, ``metrics.json``,
``NAME.json`` or `Statements`.  If none of them states a fact, the card calls it
unknown.  The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from afad_tfdata.describing import licence_and_origin, markdown, model_card_files

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
    """The card.

    Args:
      known: The files of the model.
      title: Its name, for people; empty for that of its files.
      license: Of the model; empty if it is unknown.
      stated: What is known about the data set that it was trained on.
    """
    parts = [
        _header(known, title, license, stated),
        f"# Model card: {markdown.text(title or known.name)}",
        _about(known),
        "## Intended use and limits",
        _limits(known, stated),
        "## Training",
        _training(known, stated),
        "## Evaluation",
        _evaluation(known),
    ]
    if known.graph:
        parts += ["## Graph", _graph(known.graph)]
    parts += ["## How to use it", _use(known)]
    parts += ["## Licence and citation", _rights(license, stated)]
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
    return markdown.header(
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


def _about(known: model_card_files.ModelFiles) -> str:
    """The card's section on what the model estimates, and by which network."""
    network = known.network
    labels = " and the ".join(known.labels)
    lines = [
        f"It estimates the {labels} of a face that fills the image."
        if labels
        else "What it estimates is unknown.",
        markdown.items(
            [
                f"Network: {markdown.text(network.get('backbone'))}",
                *(
                    [f"Age head: {markdown.text(network.get('age_head'))}"]
                    if "age" in known.labels
                    else []
                ),
                f"Input: {_size(network, known.graph)}",
            ]
        ),
    ]
    return "\n\n".join(lines)


def _size(network: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    """Size of the images that the network takes."""
    size = graph.get("image_size") or network.get("image_size")
    return f"{size} x {size} pixels, RGB" if size else "unknown"


def _limits(
    known: model_card_files.ModelFiles, stated: licence_and_origin.Statements
) -> str:
    """The card's section on what the model is not good for."""
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
        shown = " and ".join(markdown.text(name) for name in names) or "unknown"
        limits.append(
            f"The gender is one of the two classes in its data ({shown}), guessed from"
            " how a face looks."
        )
    limits += [markdown.text(limit) for limit in stated.limits]
    limits += [
        "How well it works for people unlike those in its data is unknown.",
        "No decision about a person should rest on its estimate alone.",
    ]
    return markdown.items(limits)


def _training(
    known: model_card_files.ModelFiles, stated: licence_and_origin.Statements
) -> str:
    """The card's section on the training."""
    if not known.run:
        return "How it was trained is unknown: no run is named."
    train = known.run["train"]
    data = markdown.text(stated.title) if stated.title else "an unnamed data set"
    number = known.run.get("train_examples")
    lines = [
        f"It was trained on {data}: {markdown.text(markdown.number(number))} training"
        " images."
    ]
    epochs = known.history.get("epochs") or []
    if epochs:
        last = epochs[-1]
        lines.append(
            f"{len(epochs):,} epochs were trained, {last['step']:,} steps."
            f"\n\n{_last_epoch(last)}"
        )
    else:
        lines.append("How many epochs were trained is unknown.")
    rows = [[name, _plain(train[name])] for name in _OPTIONS if name in train]
    rows += [
        [name, _plain(known.run[name])]
        for name in ("precision", "replicas", "tensorflow", "keras")
        if name in known.run
    ]
    lines.append(markdown.table(["option", "value"], rows))
    return "\n\n".join(lines)


def _last_epoch(last: Mapping[str, Any]) -> str:
    """The card's table of the last epoch."""
    parts = {part: last.get(part) or {} for part in ("train", "validation")}
    names = [n for n in ("loss", "accuracy", "mae") if n in parts["train"]]
    rows = [
        [name, *(_cell(values.get(name)) for values in parts.values())]
        for name in names
    ]
    return markdown.table(["last epoch", *parts], rows)


def _evaluation(known: model_card_files.ModelFiles) -> str:
    """The card's section on the metrics of an evaluation."""
    metrics = known.metrics
    if not metrics:
        return "It was not evaluated, so nobody knows how good it is."
    constant = metrics.get("constant") or {}
    intervals = metrics.get("intervals") or {}
    predicts = ", ".join(
        f"{name} {value}" for name, value in (constant.get("predicts") or {}).items()
    )
    lines = [
        f"On the split {markdown.text(metrics.get('split'))}, of"
        f" {markdown.text(markdown.number(metrics.get('examples')))} images. The"
        " constant predictor gives the same answer for every face"
        f" ({markdown.text(predicts)}). Where a model is no better than that, it has"
        " learnt nothing."
    ]
    if intervals:
        lines[0] += " The intervals are 95 % intervals, by bootstrap over the images."
    rows = [
        [
            title,
            _cell(metrics[name]),
            _interval(intervals.get(name)),
            _cell(constant.get(name)),
        ]
        for name, title in _METRICS.items()
        if metrics.get(name) is not None
    ]
    lines.append(markdown.table(["metric", "value", "interval", "constant"], rows))
    for key, title in (("by_gender", "gender"), ("by_age_group", "age group")):
        if metrics.get(key):
            lines.append(_by_group(metrics[key], title))
    return "\n\n".join(lines)


def _by_group(groups: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The card's table of metrics by group."""
    names = [
        name
        for name in _BY_GROUP
        if any(row.get(name) is not None for row in groups.values())
    ]
    rows = [
        [group, row.get("examples"), *(_cell(row.get(name)) for name in names)]
        for group, row in groups.items()
    ]
    return markdown.table([title, "images", *(_METRICS[n] for n in names)], rows)


def _graph(graph: Mapping[str, Any]) -> str:
    """The card's section on the frozen graph: its feed and fetches."""
    (feed,) = graph["feeds"]
    items = [
        f"File: {markdown.text(graph['graph']['file'])},"
        f" {graph['graph']['bytes']:,} bytes, SHA-256 {graph['graph']['sha256']}",
        f"Input: {markdown.text(feed['name'])}, {feed['dtype']}"
        f" {markdown.text(_shape(feed['shape']))}, {feed['layout']},"
        f" {feed['channel_order']}, {markdown.text(feed['value'])}",
        *(
            f"Output: {markdown.text(fetch['name'])}, {fetch['dtype']}"
            f" {markdown.text(_shape(fetch['shape']))},"
            f" {markdown.text(fetch['meaning'])}"
            for fetch in graph["fetches"]
        ),
        f"Mean of the input: {_mean(graph.get('mean'))}",
    ]
    parity = graph["parity"]["max_difference"]
    lines = [
        markdown.items(items),
        "Largest difference from the model, on the images and the random input of the"
        " verification:",
        markdown.table(
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
    if others := _others(graph.get("others") or {}):
        lines.append(others)
    return "\n\n".join(lines)


def _others(others: Mapping[str, Mapping[str, Any]]) -> str:
    """The other formats, and how far those with fewer bits are from the model."""
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
    return markdown.table(head, rows)


def _use(known: model_card_files.ModelFiles) -> str:
    """The card's section on how to use the graph or the model."""
    if known.graph:
        name = known.graph["graph"]["file"]
        return "\n\n".join(
            [
                "Each image must be the crop of one face, as in the training data.",
                markdown.code(
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
            markdown.code(
                'import keras\n\nmodel = keras.saving.load_model("best.keras")\n',
                "python",
            ),
            "`afad-freeze` writes a graph, and says how to feed it.",
        ]
    )


def _rights(license: str, stated: licence_and_origin.Statements) -> str:
    """The card's section on licences and citation."""
    return markdown.items(
        [
            f"Licence of the model: {markdown.text(license)}",
            f"Licence of its data: {markdown.text(stated.license)}",
            f"To cite its data: {markdown.text(stated.citation)}",
            *([markdown.text(stated.source)] if stated.source else []),
        ]
    )


def _shape(shape: list[int | None]) -> str:
    """A shape as text, with n for the size of the batch."""
    return "[" + ", ".join("n" if side is None else str(side) for side in shape) + "]"


def _mean(mean: Mapping[str, float] | None) -> str:
    """The channel means as text."""
    if not mean:
        return "unknown"
    return ", ".join(f"{name} {value:.2f}" for name, value in mean.items())


def _interval(value: Any) -> str:
    """The interval of a metric as text."""
    return f"{value[0]:.4f} to {value[1]:.4f}" if value else "not measured"


def _cell(value: Any) -> Any:
    """The value of a metric in a table."""
    return "not defined" if value is None else value


def _plain(value: Any) -> str:
    """A value of the run as text; none if it is empty."""
    return str(value) if value not in ("", None) else "none"
