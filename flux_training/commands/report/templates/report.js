// Enlarges an image; buttons, arrow keys and swipes move to the next. The page works without it.
const large = document.getElementById("large");
const image = large.querySelector("img");
const words = large.querySelector("figcaption");
const turn = { before: document.getElementById("before"), after: document.getElementById("after") };
let shots = [];
let at = 0;

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
    show(shots.indexOf(shot));
    large.showModal();
  });
}
turn.before.addEventListener("click", () => step(-1));
turn.after.addEventListener("click", () => step(1));
large.addEventListener("close", () => shots[at].focus());
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
