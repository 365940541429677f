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
    shots = [...shot.closest(".row").querySelectorAll(".shot")];
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

// The first sample of each prompt beside the one at the chosen step. Without this script all steps are shown.
const slider = document.getElementById("step");
if (slider) {
  const all = document.getElementById("all-steps");
  const rows = [...document.querySelectorAll(".row")].map((row) => ({ row, figures: [...row.querySelectorAll("[data-step]")] }));
  const stepOf = (figure) => Number(figure.dataset.step);
  const steps = [...new Set(rows.flatMap(({ figures }) => figures.map(stepOf)))].sort((a, b) => a - b);
  const showStep = () => {
    const chosen = steps[slider.value];
    slider.disabled = all.checked;
    slider.setAttribute("aria-valuetext", `step ${chosen}`);
    document.querySelector(".steps output").textContent = all.checked ? "all steps" : `step ${chosen}`;
    for (const { row, figures } of rows) {
      const latest = figures.filter((figure) => stepOf(figure) <= chosen).at(-1);
      row.classList.toggle("before-after", !all.checked);
      for (const figure of figures) figure.hidden = !all.checked && figure !== figures[0] && figure !== latest;
    }
  };
  slider.max = steps.length - 1;
  slider.value = slider.max;
  slider.addEventListener("input", showStep);
  all.addEventListener("change", showStep);
  document.querySelector(".steps").hidden = false;
  showStep();
}

const losses = document.getElementById("loss-chart");
if (losses) losses.append(lossChart(JSON.parse(losses.dataset.curves)));

for (const button of navigator.clipboard ? document.querySelectorAll(".copy") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed by the browser";
    }
  });
}
