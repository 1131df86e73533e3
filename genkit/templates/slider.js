"use strict";
const slider = document.getElementById("step");
const shown = document.getElementById("shown");
const caption = document.getElementById("shown-caption");
const output = document.getElementById("step-name");
const grids = document.querySelectorAll("#grids figure");
function show() {
  const figure = grids[slider.valueAsNumber];
  const image = figure.querySelector("img");
  shown.src = image.src;
  shown.alt = image.alt;
  caption.textContent = image.alt;
  output.textContent = figure.querySelector("figcaption").textContent;
  slider.setAttribute("aria-valuetext", output.textContent);
}
slider.addEventListener("input", show);
document.getElementById("slider").hidden = false;
show();
