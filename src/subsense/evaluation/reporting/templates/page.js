"use strict";

// Sort the table by a column; a second click turns the order round. Cells without a value stay last.
for (const button of document.querySelectorAll("#results thead button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const column = heading.cellIndex;
    const firstOrder = column === 0 ? "ascending" : "descending";
    const turned = firstOrder === "ascending" ? "descending" : "ascending";
    const order = heading.ariaSort === firstOrder ? turned : firstOrder;
    for (const other of heading.parentElement.cells) other.ariaSort = "none";
    heading.ariaSort = order;
    const body = document.querySelector("#results tbody");
    const value = (row) => row.cells[column].dataset.value;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => (value(a) === "") - (value(b) === "") || sign * (value(a) - value(b));
    body.append(...[...body.rows].sort(compare));
  });
}

// Show what is said about each example with the modalities that are switched on.
const source = document.getElementById("data");
if (source) {
  const { modalities, examples, fades, qualities } = JSON.parse(source.textContent);
  const switches = [...document.querySelectorAll(".switch")];
  const sliders = [...document.querySelectorAll(".quality")];
  const isOn = (button) => button.ariaPressed === "true";
  const steps = [0, ...[...qualities].reverse(), 100]; // a slider's places, in percent
  const qualityOf = (slider) => steps[slider.value];
  const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name });

  const picture = (content, alt) => Object.assign(document.createElement("img"), { src: content, alt });

  // The first picture whose modality is present lies under a mask.
  function ground(example, present) {
    return present.find((name) => example.inputs[name]?.kind === "picture");
  }

  // Nothing is certain: what would be rounded to 100 % is called more than 99.
  function sure(confidence) {
    return confidence > 0.995 ? "> 99 % sure" : `${(100 * confidence).toFixed(0)} % sure`;
  }

  function answer(example, prediction, word, present) {
    if (!prediction) return [element("span", "not available", "")];
    const parts = [];
    if (prediction.mask) {
      const overlay = element("span", "", "overlay");
      const under = ground(example, present);
      if (under) overlay.append(picture(example.inputs[under].content, ""));
      overlay.append(picture(prediction.mask, `${word}: ${prediction.label}`));
      parts.push(overlay);
    }
    if (!prediction.mask || word !== "truth") {
      const mark = prediction.right === null ? "" : prediction.right ? "right" : "wrong";
      const sign = { right: "✓ ", wrong: "✗ ", "": "" }[mark];
      parts.push(element("span", sign + prediction.label, mark));
    }
    if (prediction.confidence !== null) parts.push(element("small", sure(prediction.confidence), ""));
    if (prediction.abstains) parts.push(element("small", "abstains", "abstains"));
    if (prediction.others) parts.push(element("small", prediction.others.length ? `not ruled out: ${prediction.others.join(", ")}` : "every class ruled out", ""));
    return parts;
  }

  function show() {
    const present = switches.filter(isOn).map((button) => button.dataset.modality);
    const fading = sliders.find((slider) => present.includes(slider.dataset.modality) && qualityOf(slider) < 100);
    const faded = fading?.dataset.modality;
    const percent = fading ? qualityOf(fading) : 100;
    const combination = present.map((name) => (name === faded ? `${name}@${percent}` : name)).join("+");
    for (const button of switches) button.ariaDisabled = isOn(button) && present.length === 1;
    const missing = modalities.filter((name) => !present.includes(name));
    const rest = missing.length ? `${missing.join(", ")} missing` : "nothing is missing";
    const worse = faded ? ` ${faded} has a quality of ${percent} % (${fades[faded]}).` : "";
    document.getElementById("chosen").textContent = `${present.join(", ")} present, ${rest}.${worse}`;
    for (const card of document.querySelectorAll(".card")) {
      const example = examples[card.dataset.example];
      for (const figure of card.querySelectorAll("[data-input]")) {
        const name = figure.dataset.input;
        figure.classList.toggle("missing", !present.includes(name));
        const shown = (name === faded && example.faded_inputs[name]?.[percent]) || example.inputs[name];
        if (shown.kind === "picture") figure.querySelector("img").src = shown.content;
        else figure.querySelector(".text").textContent = shown.content;
      }
      const said = { ...(example.predictions[combination] ?? example.faded[combination]), truth: example.truth };
      for (const place of card.querySelectorAll("[data-answer]")) {
        const word = place.dataset.answer;
        place.querySelector("dd").replaceChildren(...answer(example, said[word], word, present));
      }
    }
  }

  for (const button of switches) {
    button.addEventListener("click", () => {
      if (button.ariaDisabled === "true") return; // at least one modality is present
      button.ariaPressed = String(!isOn(button));
      const slider = sliders.find((one) => one.dataset.modality === button.dataset.modality);
      if (slider) slider.value = isOn(button) ? steps.length - 1 : 0;
      show();
    });
  }

  // One modality fades at a time: moving a slider puts the others back to healthy or missing.
  for (const slider of sliders) {
    const own = switches.find((button) => button.dataset.modality === slider.dataset.modality);
    if (!isOn(own)) slider.value = 0;
    slider.addEventListener("input", () => {
      const isLast = isOn(own) && switches.filter(isOn).length === 1;
      if (isLast && slider.value === "0") slider.value = 1; // at least one modality is present
      own.ariaPressed = String(slider.value !== "0");
      for (const other of sliders) {
        if (other !== slider && other.value !== "0") other.value = steps.length - 1;
      }
      show();
    });
  }
  show();
}
