"""The platform web: projects that npm prepares, in headless Chromium, served from this machine."""

from __future__ import annotations

import base64
import json
import shutil

import numpy as np
import pytest
from expected import classes_of, golden_outputs
from headless_chromium import headless_chromium
from javascript_project import (
    MODELS,
    TYPE_NAMES,
    check_classes,
    floats,
    npm_install,
    require_node,
    type_errors,
)
from PIL import Image
from signed_bundles import check_outcomes, offers
from static_server import ISOLATED, served
from synthetic_bundle import write_bundle

from edgecompile.artifact import load_bundle
from edgecompile.goldens import read_goldens

WAIT_SECONDS = 120

# Here WebAssembly's integer kernels give what x86-64's do, bit for bit; MobileNetV2's outputs differ.
EXACT = ("small", "digits")


@pytest.fixture(scope="session")
def browser():
    # Only this machine has an address: what asks for anything elsewhere fails, and the console tells it.
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with headless_chromium(("browser",), nowhere) as driver:
        driver.set_script_timeout(WAIT_SECONDS)
        yield driver


@pytest.fixture(scope="session")
def engine(cli, small_bundle, tmp_path_factory):
    """What `npm install` puts beside a project, which is the same for all models."""
    require_node("npm")
    folder = tmp_path_factory.mktemp("web") / "app"
    finished = cli("embed", small_bundle, "--platform", "web", "-o", folder)
    assert finished.status == 0, finished.err
    npm_install(folder)
    return folder / "engine"


@pytest.fixture(scope="session")
def project_of(cli, engine, onnx_bundle, tmp_path_factory):
    """Return a new project of a model, as it is served: without node_modules."""

    def project(name):
        folder = tmp_path_factory.mktemp(name) / "app"
        assert cli("embed", onnx_bundle(name), "--platform", "web", "-o", folder).status == 0
        shutil.copytree(engine, folder / "engine")
        return folder

    return project


@pytest.fixture
def opened(browser):
    """Open a demo page; at the end, it has asked for nothing elsewhere and no console has an error."""
    with_errors = []

    def open_page(url, *, errors=False):
        browser.get_log("browser")
        browser.get(url)
        with_errors.append(errors)
        return until(lambda: (text := text_of(browser, "#status")) != "Loading the model …" and text)

    def until(condition):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(browser, WAIT_SECONDS, poll_frequency=0.05).until(lambda _: condition())

    open_page.until = until
    yield open_page
    if not any(with_errors):
        assert browser.get_log("browser") == []


def text_of(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def in_page(browser, code, *values):
    """Return what code returns in the page, where it sees the project as `module`, and `values`."""
    return browser.execute_async_script(
        "const values = arguments, done = arguments[arguments.length - 1];"
        "(async () => {"
        "  const module = await import(new URL('./index.js', document.baseURI).href);"
        f"  {code}"
        "})().then(done, (error) => done(`${error.name}: ${error.message}`));",
        *values,
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_self_test_passes(browser, opened, project_of, name):
    with served(project_of(name), ISOLATED) as server:
        assert opened(server.url) == "Ready for a picture."
        assert text_of(browser, "#threads") == "with threads"
        browser.find_element("id", "self-test").click()
        result = opened.until(lambda: (text := text_of(browser, "#self-test-result")).endswith("ed") and text)
    assert result.endswith("\npassed")
    assert "pictures: bit for bit" in result


GOLDENS = """
const model = await module.TYPE.load(), outputs = [];
for (let index = 0; index < values[0]; index++) {
  const file = await fetch(`assets/goldens/${String(index).padStart(3, "0")}-input-0.bin`);
  const found = await model.run({ [values[1]]: new Float32Array(await file.arrayBuffer()) });
  outputs.push(Array.from(Object.values(found)[0]));
}
model.close();
return JSON.stringify(outputs);
"""


@pytest.mark.parametrize("headers", [ISOLATED, {}], ids=["threads", "one thread"])
@pytest.mark.parametrize("name", MODELS)
def test_its_outputs_are_the_engines(browser, opened, project_of, onnx_bundle, name, headers):
    expected = golden_outputs(onnx_bundle(name), "onnx")[:, 0]
    entry = load_bundle(onnx_bundle(name)).manifest.inputs[0]
    with served(project_of(name), headers) as server:
        opened(server.url)
        assert browser.execute_script("return crossOriginIsolated") == bool(headers)
        found = in_page(browser, GOLDENS.replace("TYPE", TYPE_NAMES[name]), len(expected), entry.name)
    if name in EXACT:
        assert np.array_equal(floats(found), expected)
    _, floating = read_goldens(load_bundle(onnx_bundle(name)))
    signal = np.stack([outputs[0].numpy()[0] for outputs in floating])
    assert abs(sqnr_of(signal, floats(found)) - sqnr_of(signal, expected)) <= 1


def sqnr_of(signal, found):
    return 10 * np.log10((signal**2).sum() / ((signal - found) ** 2).sum())


CLASSIFY = """
const model = await module.TYPE.load(), classes = [];
for (const text of values[0]) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  classes.push(await model.classify(new Blob([bytes])));
}
model.close();
return classes;
"""


@pytest.mark.parametrize("name", MODELS)
def test_pictures_become_the_references_classes(browser, opened, project_of, onnx_bundle, pictures_of, name):
    paths = pictures_of(name)
    with served(project_of(name), ISOLATED) as server:
        opened(server.url)
        texts = [base64.b64encode(path.read_bytes()).decode() for path in paths]
        found = in_page(browser, CLASSIFY.replace("TYPE", TYPE_NAMES[name]), texts)
    expected = classes_of(onnx_bundle(name), "onnx", paths)
    for row, classes in zip(found, expected, strict=True):
        # One photograph has two classes of the very same score: either is the first.
        assert row[0]["index"] in [each.index for each in classes if each.score == classes[0].score]
    if name in EXACT:
        check_classes(found, expected)


DROP = """
const transfer = new DataTransfer();
const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
transfer.items.add(new File([bytes], arguments[1], { type: "image/png" }));
for (const type of ["dragover", "drop"]) {
  const event = new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.getElementById("drop").dispatchEvent(event);
}
"""


def shown_classes(browser):
    return [row.text.split("\n") for row in browser.find_elements("css selector", "#classes li")]


def test_a_picture_is_dropped_or_chosen(browser, opened, project_of, onnx_bundle, pictures_of):
    path, other = pictures_of("small")[:2]
    first, second = (
        [[each.label, f"{100 * each.score:.1f} %"] for each in classes]
        for classes in classes_of(onnx_bundle("small"), "onnx", [path, other])
    )
    assert first != second
    with served(project_of("small"), ISOLATED) as server:
        opened(server.url)
        browser.execute_script(DROP, base64.b64encode(path.read_bytes()).decode(), "coffee.png")
        opened.until(lambda: len(shown_classes(browser)) == 3)
        assert shown_classes(browser) == first
        assert text_of(browser, "#status").endswith("ms, from the file to the classes")
        assert browser.find_element("id", "preview").get_attribute("alt") == "The picture coffee.png"
        browser.find_element("id", "file").send_keys(str(other))
        opened.until(lambda: shown_classes(browser) == second)
        asked = [request for request in server.asked if "goldens" not in request]
    # The artifact once, and no picture: those stay in the page.
    assert asked.count("/assets/small.onnx") == 1
    assert not any(".png" in request for request in asked)


def test_a_file_that_is_no_picture(browser, opened, project_of):
    with served(project_of("small"), ISOLATED) as server:
        opened(server.url)
        browser.execute_script(DROP, base64.b64encode(b"no picture").decode(), "x.png")
        text = opened.until(lambda: (text := text_of(browser, "#status")) != "Looking …" and text)
        assert text.startswith("This picture cannot be read: ")
        assert shown_classes(browser) == []


LIVELY = """
const model = await module.Small.load();
let longest = 0, last = performance.now(), running = true;
const turns = new MessageChannel();
turns.port1.onmessage = () => {
  const now = performance.now();
  longest = Math.max(longest, now - last);
  last = now;
  if (running) setTimeout(() => turns.port2.postMessage(0), 5);
};
turns.port2.postMessage(0);
const picture = new Blob([await (await fetch(values[0])).arrayBuffer()]);
const started = performance.now();
for (let i = 0; i < values[1]; i++) await model.classify(picture);
const took = performance.now() - started;
running = false;
model.close();
return [took, longest];
"""


def test_the_page_stays_live_while_it_computes(browser, opened, project_of, tmp_path):
    """Much longer than the longest pause of the page: what takes time is in the worker."""
    project = project_of("small")
    Image.effect_noise((1200, 1200), 50).convert("RGB").save(project / "large.png")
    with served(project, ISOLATED) as server:
        opened(server.url)
        took_ms, longest_ms = in_page(browser, LIVELY, f"{server.url}large.png", 2)
    assert longest_ms < took_ms / 4


def altered(project):
    path = project / "assets/small.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (altered, "expected SHA-256"),
        (lambda project: (project / "assets/small.onnx").unlink(), "small.onnx: 404"),
        (lambda project: shutil.rmtree(project / "engine"), "`npm install`"),
    ],
    ids=["altered", "no artifact", "no engine"],
)
def test_what_cannot_be_loaded_is_told(browser, opened, project_of, change, message):
    project = project_of("small")
    change(project)
    with served(project, ISOLATED) as server:
        text = opened(server.url, errors=True)
    assert text.startswith("The model cannot be loaded: ")
    assert message in text
    assert not browser.find_element("id", "file").is_enabled()


OFFERED = """
const file = await fetch("assets/goldens/000-input-0.bin");
const picture = new Float32Array(await file.arrayBuffer()), found = [];
for (const artifact of values[0]) {
  try {
    const model = await module.Small.load({ artifact });
    found.push(["taken", Array.from(Object.values(await model.run({ picture }))[0])]);
    model.close();
  } catch (error) {
    found.push([error.name, error.message]);
  }
}
return JSON.stringify(found);
"""
OUTCOMES = {
    "taken": "taken",
    "InvalidSignatureError": "bad signature",
    "AlteredArtifactError": "bad artifact",
    "Error": "unreadable",
}


def test_only_what_is_signed_is_loaded(browser, opened, cli, engine, signed_bundle, tmp_path):
    app, key = tmp_path / "app", signed_bundle.public_key
    finished = cli("embed", signed_bundle.path, "--platform", "web", "-o", app, "--public-key", key)
    assert finished.status == 0, finished.err
    shutil.copytree(engine, app / "engine")
    (app / "updates").mkdir()
    offered = offers(signed_bundle, "onnx", app / "updates")
    with served(app, ISOLATED) as server:
        assert opened(server.url, errors=True) == "Ready for a picture."
        found = json.loads(
            in_page(browser, OFFERED, [str(item.artifact.relative_to(app)) for item in offered])
        )
    check_outcomes(offered, [kind for kind, _ in found], OUTCOMES)
    expected = golden_outputs(signed_bundle.path, "onnx")[0, 0]
    for item, (kind, told) in zip(offered, found, strict=True):
        assert kind != "taken" or np.array_equal(np.float32(told), item.factor * expected)
        assert kind != "Error" or ": 404 " in told


def test_a_wrong_input_and_a_closed_model(browser, opened, project_of):
    with served(project_of("small"), ISOLATED) as server:
        opened(server.url)
        wrong = in_page(browser, "await (await module.Small.load()).run({ picture: new Float32Array(7) });")
        closed = in_page(
            browser,
            "const model = await module.Small.load(), asked = model.run({}); model.close(); await asked;",
        )
    assert (
        wrong
        == "TypeError: picture: expected Float32Array of 5760 for [1, 3, 40, 48], found Float32Array of 7"
    )
    assert closed == "Error: the model was closed"


USE = """
import { Small, type Class } from "./index.js";
const model: Small = await Small.load({ artifact: "assets/small.onnx" });
const outputs = await model.run({ picture: new Float32Array(5760) });
const classes: Class[] = await model.classify(new Blob([]));
await model.classify(new ImageData(3, 4));
const passed: boolean = (await model.selfTest()).passed;
model.close();
export default [Object.values(outputs), classes[0]?.label, passed];
"""


def test_its_types_are_sound(project_of, tmp_path):
    project = project_of("small")
    npm_install(tmp_path, "typescript@5.9.3")
    assert type_errors(project, tmp_path, USE) == ""
    wrong = type_errors(project, tmp_path, USE.replace("new Float32Array", "new Float64Array"))
    assert "'Float64Array<ArrayBuffer>' is not assignable" in wrong


def test_a_model_that_does_not_classify(browser, opened, cli, engine, tmp_path):
    """Its page only runs the self-test; this one's artifact is no model, which is told."""
    bundle = write_bundle(tmp_path / "bundle")
    assert cli("embed", bundle, "--platform", "web", "-o", tmp_path / "app").status == 0
    shutil.copytree(engine, tmp_path / "app/engine")
    with served(tmp_path / "app", ISOLATED) as server:
        assert opened(server.url, errors=True).startswith("The model cannot be loaded: ")
    assert browser.find_elements("id", "file") == []
