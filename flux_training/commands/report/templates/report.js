// Enlarges an image; buttons, arrow keys and swipes move to the next. The page works without it.
const large = document.getElementById("large");
const image = large.querySelector("img");
const words = large.querySelector("figcaption");
const turn = { before: document.getElementById("before"), after: document.getElementById("after") };
let shots = [];
let at = 0;
let opener = null;

function show(index) {
  at = index;
  const shot = shots[at].querySelector("img");
  image.src = shot.src;
  image.alt = shot.alt;
  words.textContent = shot.alt;
  turn.before.disabled = at === 0;
  turn.after.disabled = at === shots.length - 1;
}

function step(by) {
  if (at + by >= 0 && at + by < shots.length) show(at + by);
}

for (const shot of document.querySelectorAll(".shot")) {
  shot.addEventListener("click", () => {
    // On a run's page all steps of the prompt, in a comparison all runs at the chosen step.
    const row = shot.closest(".row");
    shots = row ? [...row.querySelectorAll(".shot")] : [...shot.closest(".side-by-side").querySelectorAll("figure:not([hidden]) .shot")];
    opener = shot;
    show(shots.indexOf(shot));
    large.showModal();
  });
}
turn.before.addEventListener("click", () => step(-1));
turn.after.addEventListener("click", () => step(1));
large.addEventListener("close", () => (shots[at].closest("[hidden]") ? opener : shots[at]).focus());
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
let from = 0;
large.addEventListener("touchstart", (event) => { from = event.touches[0].clientX; }, { passive: true });
large.addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - from;
  if (Math.abs(moved) > 40) step(moved < 0 ? 1 : -1);
});

// The newest sample at the chosen step; on a run's page beside the first one of the prompt. Without this script all steps are shown.
const slider = document.getElementById("step");
if (slider) {
  const all = document.getElementById("all-steps");
  const places = [...document.querySelectorAll(".row, .cell")].map((place) => ({ place, figures: [...place.querySelectorAll("[data-step]")] }));
  const stepOf = (figure) => Number(figure.dataset.step);
  const steps = [...new Set(places.flatMap(({ figures }) => figures.map(stepOf)))].sort((a, b) => a - b);
  const showStep = () => {
    const chosen = steps[slider.value];
    const isAll = Boolean(all?.checked);
    slider.disabled = isAll;
    slider.setAttribute("aria-valuetext", `step ${chosen}`);
    document.querySelector(".steps output").textContent = isAll ? "all steps" : `step ${chosen}`;
    for (const { place, figures } of places) {
      const latest = figures.filter((figure) => stepOf(figure) <= chosen).at(-1);
      const first = place.matches(".row") ? figures[0] : latest;
      place.classList.toggle("before-after", place.matches(".row") && !isAll);
      for (const figure of figures) figure.hidden = !isAll && figure !== first && figure !== latest;
      const none = place.querySelector(".none");
      if (none) none.hidden = Boolean(latest);
    }
  };
  slider.max = steps.length - 1;
  slider.value = slider.max;
  slider.addEventListener("input", showStep);
  all?.addEventListener("change", showStep);
  document.querySelector(".steps").hidden = false;
  showStep();
}

// Sorts the runs of a comparison: the columns of the table and the samples of each prompt. Unknown numbers come last.
const sort = document.getElementById("sort");
if (sort) {
  const heads = [...document.querySelectorAll("thead th")];
  const lines = [...document.querySelectorAll(".compared tr")].filter((line) => line.children.length > heads.length);
  const columns = [...lines.map((line) => [...line.children].slice(1)), ...[...document.querySelectorAll(".side-by-side")].map((row) => [...row.children])];
  sort.addEventListener("change", () => {
    const value = (index) => Number(heads[index].dataset[sort.value] ?? Infinity);
    const order = [...heads.keys()].sort((a, b) => (sort.value ? value(a) - value(b) || a - b : a - b));
    for (const cells of columns) cells[0].parentNode.append(...order.map((index) => cells[index]));
  });
  sort.closest("[hidden]").hidden = false;
}

const losses = document.getElementById("loss-chart");
if (losses) losses.append(lossChart(JSON.parse(losses.dataset.curves)));

for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  copyOnClick(button);
}
