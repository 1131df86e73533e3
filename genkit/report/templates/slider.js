"use strict";
const slider = document.getElementById("step");
const shown = document.getElementById("shown");
const output = document.getElementById("step-name");
const grids = document.querySelectorAll("#grids figure");
function show() {
  const figure = grids[slider.valueAsNumber];
  const image = figure.querySelector("img");
  shown.src = image.src;
  shown.alt = image.alt;
  output.textContent = figure.querySelector("figcaption").textContent;
  slider.setAttribute("aria-valuetext", output.textContent);
}
slider.addEventListener("input", show);
document.getElementById("shown-caption").hidden = true;
document.getElementById("slider").hidden = false;
show();
