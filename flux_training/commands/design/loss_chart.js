// The loss by step of one or more runs, as SVG: smoothing, a logarithmic axis, and the values below the pointer or at the arrow keys.
// `curves` has a label, points (pairs of step and loss, by increasing step) and marks: the steps of checkpoints and restarts, which are
// drawn for a single curve. `last` is the run's loss in words, as other commands show it; it is shown until a step is chosen. Each curve has the colour with the number `color`, or that of its position.
// The element's function `show` replaces the curves and keeps what was chosen.
function lossChart(curves) {
  const FIRST_SMOOTHING = 10;
  const MARGIN = { left: 52, right: 12, top: 10, bottom: 40 };
  const svg = shape("svg", { class: "chart", role: "slider", tabindex: 0, "aria-label": "Loss by step" });
  const smoothing = element("input", { type: "range", min: 0, max: 40, step: 5, value: FIRST_SMOOTHING });
  const width = element("output");
  const log = element("input", { type: "checkbox" });
  const reading = element("output", { class: "reading soft small" });
  let steps = [];
  let chosen = null;
  let smoothed = [];
  let across = null;

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function shape(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function show(found) {
    curves = found;
    steps = [...new Set(curves.flatMap((curve) => curve.points.map(([step]) => step)))].sort((a, b) => a - b);
    log.disabled = curves.some((curve) => curve.points.every(([, loss]) => loss <= 0));
    if (log.disabled) log.checked = false;
    draw();
  }

  function draw() {
    width.textContent = smoothing.value === "0" ? "none" : `${smoothing.value} % of the run`;
    smoothed = curves.map((curve) => mean(curve.points, Number(smoothing.value) / 100));
    const size = { width: Math.max(280, svg.parentNode.clientWidth || 960), height: 320 };
    const [low, high] = lossRange(curves, smoothed, log.checked);
    const right = size.width - MARGIN.right;
    const bottom = size.height - MARGIN.bottom;
    const stepTicks = roundTicks(0, steps.at(-1), size.width > 600 ? 8 : 4);
    const lossTicks = log.checked ? logTicks(low, high) : roundTicks(low, high, 5);
    const scale = log.checked ? Math.log : Number;
    const [first, last] = [scale(lossTicks[0]), scale(lossTicks.at(-1))];
    const x = (step) => MARGIN.left + ((right - MARGIN.left) * step) / stepTicks.at(-1);
    const y = (loss) => MARGIN.top + (bottom - MARGIN.top) * (1 - Math.min(1, Math.max(0, (scale(loss) - first) / (last - first))));
    const line = (points, style, number) => {
      const shown = points.filter(([, loss]) => !log.checked || loss > 0);
      return shape("polyline", { class: `${style} c${number % 8}`, points: shown.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(" ") });
    };
    across = { x, top: MARGIN.top, bottom };
    svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    svg.replaceChildren(
      ...lossTicks.flatMap((loss) => [
        shape("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(loss), y2: y(loss) }),
        shape("text", { x: MARGIN.left - 8, y: y(loss) + 4, "text-anchor": "end" }, short(loss)),
      ]),
      ...stepTicks.map((step) => shape("text", { x: x(step), y: bottom + 18, "text-anchor": step === stepTicks.at(-1) ? "end" : "middle" }, short(step))),
      shape("text", { x: (MARGIN.left + right) / 2, y: size.height - 4, "text-anchor": "middle" }, "steps"),
      ...(curves.length > 3 ? [] : curves.map((curve, number) => line(curve.points, "raw", curve.color ?? number))),
      ...smoothed.map((points, number) => line(points, "smooth", curves[number].color ?? number)),
      ...marksOf(curves).map(([kind, step]) => kind === "restart"
        ? shape("line", { class: "restart", x1: x(step), x2: x(step), y1: MARGIN.top, y2: bottom })
        : shape("path", { class: "checkpoint", d: `M${x(step).toFixed(1)},${bottom - 7}l5,7h-10z` })),
      shape("line", { class: "cursor", y1: MARGIN.top, y2: bottom, x1: 0, x2: 0, visibility: "hidden" }),
    );
    read();
  }

  function read() {
    svg.setAttribute("aria-valuemin", steps[0]);
    svg.setAttribute("aria-valuemax", steps.at(-1));
    svg.setAttribute("aria-valuenow", chosen ?? steps.at(-1));
    const step = chosen ?? steps.at(-1);
    const ends = curves.map((curve) => curve.points.at(-1)[0]);
    const isSameEnd = ends.every((end) => end === ends[0]);
    const values = curves.map((curve, number) => {
      const name = curves.length > 1 ? `${curve.label} ` : "";
      // A run has no loss after its last step.
      if (chosen !== null && step > ends[number]) return `${name}ended at step ${ends[number]}`;
      const at = nearest(curve.points, step);
      const end = chosen === null && !isSameEnd ? `at step ${ends[number]}: ` : "";
      if (chosen === null && curve.last) return `${name}${end}${curve.last}`;
      const raw = curves.length > 3 ? "" : `loss ${short(curve.points[at][1])}, `;
      return `${name}${end}${raw}smoothed ${short(smoothed[number][at][1])}`;
    });
    // A long curve has no point for each step.
    const here = marksOf(curves).filter(([, marked]) => nearest(curves[0].points, marked) === nearest(curves[0].points, step));
    const events = here.map(([kind, marked]) => (kind === "restart" ? `restarted from step ${marked}` : `checkpoint of step ${marked}`));
    const place = chosen === null && !isSameEnd ? "Last steps" : `Step ${step}`;
    reading.textContent = `${place}: ${[...values, ...events].join("; ")}`;
    svg.setAttribute("aria-valuetext", reading.textContent);
    const cursor = svg.querySelector(".cursor");
    if (chosen === null || !cursor) return;
    cursor.setAttribute("x1", across.x(step));
    cursor.setAttribute("x2", across.x(step));
    cursor.setAttribute("visibility", "visible");
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    chosen = steps.reduce((best, step) => (Math.abs(across.x(step) - place) < Math.abs(across.x(best) - place) ? step : best), steps[0]);
    read();
  });
  svg.addEventListener("keydown", (event) => {
    const at = steps.indexOf(chosen ?? steps.at(-1));
    const far = Math.max(1, Math.round(steps.length / 20));
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageDown: at - far, PageUp: at + far, Home: 0, End: steps.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    chosen = steps[Math.min(steps.length - 1, Math.max(0, to))];
    read();
  });
  smoothing.addEventListener("input", draw);
  log.addEventListener("change", draw);
  const controls = element("p", { class: "chart-controls small" }, element("label", {}, "Smoothing ", smoothing), width, element("label", {}, log, " Log scale"));
  const whole = element("div", { class: "loss-chart" }, controls, svg, reading);
  whole.show = show;
  show(curves);
  new ResizeObserver(draw).observe(whole);
  return whole;
}

// Each loss replaced by the mean of its neighbourhood, `share` of the curve; half as much at its ends.
function mean(points, share) {
  const half = share ? Math.max(1, Math.floor((points.length * share) / 2)) : 0;
  const sums = [0];
  for (const [, loss] of points) sums.push(sums.at(-1) + loss);
  return points.map(([step], index) => {
    const [first, last] = [Math.max(0, index - half), Math.min(points.length, index + half + 1)];
    return [step, (sums[last] - sums[first]) / (last - first)];
  });
}

// All smoothed curves and 98 % of the points, so that outliers do not flatten the curves.
function lossRange(curves, smoothed, onlyPositive) {
  const usable = (points) => points.map(([, loss]) => loss).filter((loss) => !onlyPositive || loss > 0);
  const losses = curves.flatMap((curve) => usable(curve.points)).sort((a, b) => a - b);
  const edge = Math.floor(losses.length / 100);
  let [low, high] = [losses[edge], losses.at(-1 - edge)];
  for (const loss of smoothed.flatMap(usable)) [low, high] = [Math.min(low, loss), Math.max(high, loss)];
  return [low, high];
}

// Round numbers, 1, 2 or 5 times a power of ten apart, that span `low` to `high`.
function roundTicks(low, high, about) {
  if (high - low <= Math.max(1e-9, 1e-6 * Math.max(Math.abs(low), Math.abs(high)))) high = low + (Math.abs(low) > 1e-9 ? Math.abs(low) : 1);
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const apart = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * (1 - 1e-9));
  const [first, last] = [Math.floor(low / apart + 1e-9), Math.ceil(high / apart - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * apart);
}

// 1, 2 and 5 times each power of ten from below `low` to above `high`; only the powers if those are many.
function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high) + 1e-9)];
  const factors = last - first > 3 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = first; power <= last; power += 1) ticks.push(...factors.map((factor) => factor * 10 ** power));
  const [from, to] = [ticks.findLastIndex((tick) => tick <= low), ticks.findIndex((tick) => tick >= high)];
  const shown = ticks.slice(Math.max(0, from), to + 1);
  return shown.length > 1 ? shown : ticks.slice(Math.max(0, from), Math.max(0, from) + 2);
}

function nearest(points, step) {
  let best = 0;
  points.forEach(([at], index) => { if (Math.abs(at - step) < Math.abs(points[best][0] - step)) best = index; });
  return best;
}

function marksOf(curves) {
  const marks = curves.length === 1 ? curves[0].marks : {};
  const last = curves[0]?.points.at(-1)?.[0] ?? 0;
  return Object.entries(marks).flatMap(([kind, steps]) => steps.filter((step) => step <= last).map((step) => [kind, step]));
}

function short(number) {
  return String(Number(number.toPrecision(4)));
}
