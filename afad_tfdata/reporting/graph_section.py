"""A frozen graph: its size, what it takes and returns, and how to load it."""

from __future__ import annotations

import os
from typing import Any

from afad_tfdata.freezing import graph_description
from afad_tfdata.reporting import html_elements, json_values


def build(path: str) -> list[html_elements.Element]:
    """The report's section on one frozen graph.

    Args:
      path: NAME.pb, next to its NAME.json.

    Raises:
      UsageError: The description is missing, or is that of another graph.
      DataError: The graph or its description is damaged.
    """
    value = graph_description.load_description(path)
    where = graph_description.description_path(path)
    description = json_values.Json(value, where)
    return [
        _graph_facts(path, description),
        *_feeds_and_fetches(description),
        *_differences_from_model(description.at("parity")),
        *_median_times(description),
        *_other_formats(description),
        html_elements.new("h3", "How to load it"),
        *_loading_programs(path, description),
        html_elements.folded("Model and versions", _model_options(description)),
    ]


def _graph_facts(path: str, description: json_values.Json) -> html_elements.Element:
    """The report's list of what the graph is."""
    graph = description.at("graph")
    names = [name.text for name in description.at("class_names").elements()]
    ages = description.at("age_range")
    flops = graph.at("flops_per_image")
    return html_elements.facts(
        {
            "File": html_elements.new("code", path),
            "SHA-256": html_elements.new("code", graph.at("sha256").text),
            "Bytes": html_elements.number(graph.at("bytes")),
            "Nodes": html_elements.number(graph.at("nodes")),
            "Operations per image": html_elements.number(flops),
            "Loads in TensorFlow 1.15": _yes_or_no(graph.at("tf1_compatible")),
            "Image size": html_elements.number(description.at("image_size")),
            "Labels": ", ".join(f"{i} {name}" for i, name in enumerate(names)),
            "Label 1 from": html_elements.number(description.at("threshold"), 2)
            if names
            else None,
            "Ages of the training data": html_elements.new(
                "span",
                html_elements.number(ages.at(0)),
                " to ",
                html_elements.number(ages.at(1)),
            )
            if ages
            else None,
            "Frozen from": description.at("source", "file").text,
        }
    )


def _yes_or_no(value: json_values.Json) -> str:
    """A bool of a graph's description as yes or no, for the report."""
    return {True: "yes", False: "no"}.get(value.value, "")


def _feeds_and_fetches(description: json_values.Json) -> list[html_elements.Element]:
    """The report's table of the graph's feeds and fetches."""
    rows: list[list[Any]] = [
        [
            html_elements.new("code", end.at("name").text),
            what,
            end.at("dtype").text,
            _shape_text(end.at("shape")),
            end.at("meaning").text or end.at("value").text,
        ]
        for what, key in (("feed", "feeds"), ("fetch", "fetches"))
        for end in description.at(key).elements()
    ]
    mean = description.at("mean")
    sentence = html_elements.new("p", "Feed RGB images")
    if mean.items():
        html_elements.extend(sentence, ["; the mean is "])
        for name, value in mean.items():
            html_elements.extend(
                sentence, [f"{name} ", html_elements.number(value, 4), ", "]
            )
        html_elements.extend(
            sentence,
            ["and the divisor ", html_elements.number(description.at("divisor"), 1)],
        )
    html_elements.extend(sentence, ["."])
    head = ["node", "use", "type", "shape", "content"]
    return [
        html_elements.table(head, rows, caption="What the graph takes and returns"),
        sentence,
    ]


def _shape_text(value: json_values.Json) -> str:
    """The shape of a graph's feed or fetch for the report, with n for the batch."""
    sides = ["n" if v.value is None else str(v.value) for v in value.elements()]
    return f"[{', '.join(sides)}]"


def _differences_from_model(parity: json_values.Json) -> list[html_elements.Element]:
    """The report's table of differences between the graph and its model."""
    labels = [name for name, _ in parity.at("max_difference").items()]
    if not labels:
        return []
    rows: list[list[Any]] = [
        [case, *(html_elements.number(found.at(n), 1, form="e") for n in labels)]
        for case, found in parity.at("cases").items()
    ]
    for title, key in (("largest", "max_difference"), ("allowed", "allowed")):
        values = [html_elements.number(parity.at(key, n), 1, form="e") for n in labels]
        rows.append([html_elements.new("strong", title), *values])
    return [
        html_elements.table(
            ["images", *labels],
            rows,
            caption=f"Largest differences from the model ({parity.at('images').text})",
        )
    ]


def _median_times(description: json_values.Json) -> list[html_elements.Element]:
    """The report's table of the graph's median times."""
    rows = [
        [
            batch,
            html_elements.number(times.at("graph"), 3),
            html_elements.number(times.at("model"), 3),
        ]
        for batch, times in description.at("latency_ms").items()
    ]
    if not rows:
        return []
    head = ["images", "graph, ms", "Keras model, ms"]
    return [html_elements.table(head, rows, caption="Median time on the CPU")]


def _other_formats(description: json_values.Json) -> list[html_elements.Element]:
    """The report's table of the graph's other formats."""
    rows: list[list[Any]] = [
        [
            html_elements.new("code", other.at("file").text),
            name,
            html_elements.number(other.at("bytes")),
            html_elements.option_text(other.at("max_difference").value),
        ]
        for name, other in description.at("others").items()
    ]
    if not rows:
        return []
    head = ["file", "form", "bytes", "largest differences"]
    return [html_elements.table(head, rows, caption="Other forms of the graph")]


def _loading_programs(
    path: str, description: json_values.Json
) -> list[html_elements.Element]:
    """The report's programs that load the graph, in several languages."""
    feed = description.at("feeds", 0, "name").text
    fetches = [f.at("name").text for f in description.at("fetches").elements()]
    side = description.at("image_size").number or 0
    onnx = [
        other.at("file").text
        for _, other in description.at("others").items()
        if other.at("file").text.endswith(".onnx")
    ]
    name = os.path.basename(path.rstrip("/"))
    tensors = ", ".join(_python_text(f"{fetch}:0") for fetch in fetches)
    python = [
        "import tensorflow as tf",
        "",
        "graph_def = tf.compat.v1.GraphDef()",
        f"with open({_python_text(name)}, 'rb') as file:",
        "    graph_def.ParseFromString(file.read())",
        "with tf.Graph().as_default() as graph:",
        "    tf.import_graph_def(graph_def, name='')",
        "session = tf.compat.v1.Session(graph=graph)",
        f"# images: float32 [n, {side}, {side}, 3], RGB, (x - mean) / divisor",
        f"outputs = session.run([{tensors}], {{{_python_text(feed + ':0')}: images}})",
    ]
    c = [
        "#include <tensorflow/c/c_api.h>",
        "",
        "/* buffer: the bytes of the file, in a TF_Buffer. */",
        "TF_Graph* graph = TF_NewGraph();",
        "TF_Status* status = TF_NewStatus();",
        "TF_ImportGraphDefOptions* import = TF_NewImportGraphDefOptions();",
        "TF_GraphImportGraphDef(graph, buffer, import, status);",
        "TF_SessionOptions* options = TF_NewSessionOptions();",
        "TF_Session* session = TF_NewSession(graph, options, status);",
        f"TF_Output feed = {{TF_GraphOperationByName(graph, {_c_text(feed)}), 0}};",
        f"TF_Output fetches[{len(fetches)}] = {{",
        *(f"    {{TF_GraphOperationByName(graph, {_c_text(f)}), 0}}," for f in fetches),
        "};",
        "TF_SessionRun(session, NULL, &feed, &image_tensor, 1,",
        f"              fetches, output_tensors, {len(fetches)},",
        "              NULL, 0, NULL, status);",
    ]
    columns = ", ".join(_c_text(fetch) for fetch in fetches)
    csharp = [
        "// Packages Microsoft.ML and Microsoft.ML.TensorFlow.",
        "using Microsoft.ML;",
        "",
        "var ml = new MLContext();",
        f"var model = ml.Model.LoadTensorFlowModel({_c_text(name)});",
        "var pipeline = model.ScoreTensorFlowModel(",
        f"    outputColumnNames: new[] {{ {columns} }},",
        f"    inputColumnNames: new[] {{ {_c_text(feed)} }});",
        f"// The column {feed} is float[{side} * {side} * 3]: rows, columns, R, G, B.",
    ]
    found = [
        html_elements.folded("Python", html_elements.code(python, "Python")),
        html_elements.folded("C", html_elements.code(c, "C")),
        html_elements.folded("C#, by ML.NET", html_elements.code(csharp, "C#")),
    ]
    if onnx:
        program = [
            "import onnxruntime",
            "",
            f"session = onnxruntime.InferenceSession({_python_text(onnx[0])})",
            "inputs = {session.get_inputs()[0].name: images}",
            "outputs = session.run(None, inputs)",
        ]
        found.append(html_elements.folded("ONNX", html_elements.code(program, "ONNX")))
    else:
        text = (
            "This graph was frozen without an ONNX file. afad-freeze --onnx writes one"
            " next to it, and also compares it with the model."
        )
        found.append(html_elements.folded("ONNX", html_elements.new("p", text)))
    return found


def _python_text(text: str) -> str:
    """A text in the report's Python program that loads the graph."""
    return repr(text)


def _c_text(text: str) -> str:
    """A text in the report's C and C# programs that load the graph."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _model_options(description: json_values.Json) -> html_elements.Element:
    """The report's table of the graph's model options, and of versions."""
    rows = [
        [name, html_elements.new("code", html_elements.option_text(value.value))]
        for part in ("model", "corrections", "versions")
        for name, value in description.at(part).items()
    ]
    return html_elements.table(["name", "value"], rows, caption="Model and versions")
