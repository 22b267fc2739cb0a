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
  const { modalities, examples } = JSON.parse(source.textContent);
  const switches = [...document.querySelectorAll(".switch")];
  const isOn = (button) => button.ariaPressed === "true";
  const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name });

  const picture = (content, alt) => Object.assign(document.createElement("img"), { src: content, alt });

  // The first picture whose modality is present lies under a mask.
  function ground(example, present) {
    return present.find((name) => example.inputs[name]?.kind === "picture");
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
    if (prediction.confidence !== null) parts.push(element("small", `${(100 * prediction.confidence).toFixed(0)} % sure`, ""));
    return parts;
  }

  function show() {
    const present = switches.filter(isOn).map((button) => button.dataset.modality);
    const combination = present.join("+");
    for (const button of switches) button.ariaDisabled = isOn(button) && present.length === 1;
    const missing = modalities.filter((name) => !present.includes(name));
    const rest = missing.length ? `${missing.join(", ")} missing` : "nothing is missing";
    document.getElementById("chosen").textContent = `${present.join(", ")} present, ${rest}.`;
    for (const card of document.querySelectorAll(".card")) {
      const example = examples[card.dataset.example];
      for (const figure of card.querySelectorAll("[data-input]")) {
        figure.classList.toggle("missing", !present.includes(figure.dataset.input));
      }
      const said = { ...example.predictions[combination], truth: example.truth };
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
      show();
    });
  }
  show();
}
