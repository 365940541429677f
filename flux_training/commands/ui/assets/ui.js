// Shows what the server sends. Everything is inserted as text, never as HTML: nodes wrote parts of it.
"use strict";

const main = document.getElementById("main");
let stack = null;
let shown = "";

/** An element. Strings among the children become text. */
function make(tag, attributes = {}, ...children) {
  const element = tag === "svg" || SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = new Set(["line", "text", "polyline"]);
// As show_dollars of bill.py, whose amounts stand beside these.
const dollars = (amount) => (amount === null ? "" : `$${amount.toFixed(amount >= 0.095 || amount === 0 ? 2 : 4)}`);
const setText = (id, text) => {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
};

function minutes(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const all = Math.round(seconds / 60);
  return all <= 90 ? `${all} min` : `${Math.floor(all / 60)} h ${all % 60} min`;
}

function cost(spent, expected) {
  if (spent === null) return "";
  return expected !== null && expected > spent ? `${dollars(spent)} of about ${dollars(expected)}` : dollars(spent);
}

const onStack = () => (stack && stack.stack !== "dev" ? ` --stack ${stack.stack}` : "");

// The overview.

function jobCard(job) {
  const numbers = [`step ${job.step} of ${job.steps}`];
  if (job.loss !== null) numbers.push(`${job.loss_name} ${job.loss.toFixed(4)}`);
  if (job.eta_seconds !== null) numbers.push(`about ${minutes(job.eta_seconds)} left`);
  const money = cost(job.spent_usd, job.expected_usd);
  if (money) numbers.push(money);
  const node = [];
  if (job.instance || job.machine) node.push(`node ${(job.instance || job.machine).slice(0, 8)}`);
  if (job.restarts) node.push(`${job.restarts} restart${job.restarts === 1 ? "" : "s"}`);
  const card = make("li", { class: "card", id: `job-${job.name}` },
    make("h2", {}, make("a", { href: `#run/${job.name}/${job.run_id}` }, job.name), make("span", { class: `state ${job.style}` }, job.phase)),
    make("progress", { max: job.steps || 1, value: job.step, "aria-label": `Steps of ${job.name}` }),
    make("p", { class: "numbers" }, numbers.join(" · ")));
  if (job.differs) card.append(make("p", { class: "small" }, job.differs));
  if (node.length) card.append(make("p", { class: "soft small" }, node.join(" · ")));
  if (job.problem) card.append(make("p", { class: "alarm small" }, job.problem));
  card.dataset.content = JSON.stringify(job);
  return card;
}

/** Replaces only the cards that changed, so that the focus stays where it is. */
function showJobs() {
  let list = main.querySelector(".jobs");
  if (!list) {
    list = make("ul", { class: "jobs", "aria-label": "Jobs" });
    main.replaceChildren(list, section("clusters", "Clusters"));
  }
  showClusters();
  const cards = new Map([...list.children].map((card) => [card.id, card]));
  for (const job of stack.jobs) {
    const old = cards.get(`job-${job.name}`);
    cards.delete(`job-${job.name}`);
    if (!old) list.append(jobCard(job));
    else if (old.dataset.content !== JSON.stringify(job)) replaceCard(old, jobCard(job));
  }
  for (const gone of cards.values()) gone.remove();
}

function showClusters() {
  showWhenChanged("clusters", stack.clusters, () => (stack.clusters.length
    ? make("dl", { class: "facts card" }, ...facts(stack.clusters.map((one) => [one.name, clusterWords(one)])))
    : make("p", { class: "soft" }, "There is no container group.")));
}

function clusterWords(cluster) {
  const nodes = Object.entries(cluster.nodes).map(([state, count]) => `${count} ${state}`);
  const price = cluster.usd_an_hour === null ? [] : [`$${cluster.usd_an_hour.toFixed(3)} an hour for a node`];
  return [...(nodes.length ? nodes : ["no node"]), ...price].join(", ");
}

function replaceCard(old, card) {
  const hadFocus = old.contains(document.activeElement);
  old.replaceWith(card);
  if (hadFocus) card.querySelector("a").focus();
}

// One run.

function section(name, title) {
  return make("section", { "aria-labelledby": `${name}-title` }, make("h2", { id: `${name}-title` }, title), make("div", { id: name }));
}

function openRun(job, run) {
  main.replaceChildren(
    make("dl", { class: "figures", id: "facts" }),
    make("p", { id: "run-problem", class: "alarm", hidden: "" }),
    make("p", { id: "message", class: "soft" }),
    section("samples", "Samples"),
    section("loss", "Loss"),
    section("node", "Node and times"),
    section("cost", "Cost by component"),
    section("commands", "Commands"),
    section("findings", "Findings"),
    make("section", { "aria-labelledby": "log-title" }, make("h2", { id: "log-title" }, "Log of the node"), logButton(job, run)));
}

async function updateRun(job, run) {
  const row = stack && stack.jobs.find((one) => one.name === job && one.run_id === run);
  const problem = document.getElementById("run-problem");
  problem.textContent = row?.problem || "";
  problem.hidden = !problem.textContent;
  const found = await ask(`run/${job}/${run}`);
  if (shown !== `run/${job}/${run}`) return;
  if (found.failure) {
    problem.textContent = found.failure;
    problem.hidden = false;
    return;
  }
  const own = row ? [["State", row.phase], ["Cost", cost(row.spent_usd, row.expected_usd)]] : [];
  const node = row ? [["Machine", row.machine || ""], ["Instance", row.instance || ""]] : [];
  document.getElementById("facts").replaceChildren(...facts([...own, ...found.figures]));
  document.getElementById("node").replaceChildren(make("dl", { class: "facts card" }, ...facts([["Run", run], ...found.times, ...node])));
  showCost(found.cost_parts);
  showCommands(found.commands);
  setText("message", found.message);
  showSamples(job, run, found.prompts);
  showLoss(found.curve);
  showFindings(found.findings);
}

function facts(pairs) {
  return pairs.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}

/** Adds the samples that are new, so that a row stays where it was scrolled to. */
function showSamples(job, run, prompts) {
  const place = document.getElementById("samples");
  if (!prompts.length) place.replaceChildren(make("p", { class: "soft" }, "There are no samples yet."));
  else if (!place.querySelector(".strip")) place.replaceChildren();
  prompts.forEach((one, index) => {
    let strip = document.getElementById(`strip-${index}`);
    if (!strip) {
      strip = make("article", { class: "strip", id: `strip-${index}` }, make("h3", { dir: "auto" }, one.prompt, " ", copyButton(one.prompt, "the prompt")),
        make("div", { class: "row", role: "group", "aria-label": one.prompt, tabindex: "0" }));
      place.append(strip);
    }
    addShots(strip.querySelector(".row"), one, `image/${job}/${run}/`);
  });
}

function addShots(row, one, folder) {
  const known = new Map([...row.children].map((figure) => [figure.dataset.name, figure]));
  const figures = one.samples.map((sample) => known.get(sample.name) ?? shot(sample, one.prompt, folder));
  const isSame = figures.length === row.children.length && figures.every((figure, index) => figure === row.children[index]);
  if (isSame) return;
  const wasAtEnd = row.scrollLeft + row.clientWidth >= row.scrollWidth - 8;
  row.replaceChildren(...figures);
  if (wasAtEnd) row.scrollLeft = row.scrollWidth;
}

function shot(sample, prompt, folder) {
  const address = folder + encodeURIComponent(sample.name);
  const image = make("img", { src: address, alt: `${prompt}, step ${sample.step}`, width: 512, height: 512, loading: "lazy" });
  image.addEventListener("error", () => image.closest("a").replaceWith(make("div", { class: "missing" }, "this image cannot be read")));
  const figure = make("figure", {}, make("a", { class: "shot", href: address, target: "_blank", rel: "noreferrer" }, image), make("figcaption", {}, `step ${sample.step}`));
  figure.dataset.name = sample.name;
  return figure;
}

function showLoss(curve) {
  const place = document.getElementById("loss");
  const last = `${curve.points.at(-1)} ${curve.last}`;
  if (place.dataset.last === last) return;
  place.dataset.last = last;
  const chart = place.querySelector(".loss-chart");
  if (chart) chart.show([curve]);
  else if (!curve.points.length) place.replaceChildren(make("p", { class: "soft" }, "No loss was recorded yet."));
  else place.replaceChildren(make("div", { class: "card" }, lossChart([curve])));
}

/** A cell that names its column where a narrow screen shows the cells below each other. */
function cell(column, value, attributes = {}) {
  return make("td", { "data-label": column, ...attributes }, value);
}

function showCost(parts) {
  const cells = (part) => [make("th", { scope: "row" }, part.name), cell("Time", part.time), cell("Cost", part.cost)];
  const row = (part) => make("tr", part.is_total ? { class: "total" } : {}, ...cells(part));
  const head = make("tr", {}, ...["Component", "Time", "Cost"].map((title) => make("th", { scope: "col" }, title)));
  showWhenChanged("cost", parts, () => (parts.length
    ? make("div", { class: "scroll", role: "group", "aria-label": "Cost by component", tabindex: "0" },
      make("table", { class: "stacked" }, make("thead", {}, head), make("tbody", {}, ...parts.map(row))))
    : make("p", { class: "soft" }, "The trainer has not reported its time yet.")));
}

function showCommands(commands) {
  const value = ([what, text]) => make("div", {}, make("dt", {}, what), make("dd", {}, make("code", { class: "long" }, text), " ", copyButton(text, "the command")));
  showWhenChanged("commands", commands, () => make("dl", { class: "facts card" }, ...commands.map(value)));
}

/** Replaces the content of a place only when its data has changed, so that the focus stays where it is. */
function showWhenChanged(id, data, build) {
  const place = document.getElementById(id);
  const content = JSON.stringify(data);
  if (place.dataset.content === content) return;
  place.dataset.content = content;
  place.replaceChildren(build());
}

function copyButton(text, what) {
  const button = make("button", { type: "button", class: "copy", "data-copy": text, "aria-label": `Copy ${what}` }, "Copy");
  copyOnClick(button);
  return button;
}

function showFindings(findings) {
  const place = document.getElementById("findings");
  if (!findings.length) place.replaceChildren(make("p", { class: "soft" }, "Everything that the node wrote is valid."));
  else place.replaceChildren(make("ul", { class: "findings" }, ...findings.map((finding) => make("li", {}, finding))));
}

function logButton(job, run) {
  const place = make("div", {});
  const button = make("button", { type: "button" }, "Show the last lines");
  button.addEventListener("click", async () => {
    const current = stack && stack.jobs.some((one) => one.name === job && one.run_id === run);
    const found = current ? await ask(`log/${job}`) : { failure: "Only the log of a deployed run can be read." };
    const text = found.failure || found.missing || found.lines.join("\n") || "The log has no lines yet.";
    place.querySelector("pre")?.remove();
    const log = make("pre", { id: "log", tabindex: "0", class: "card" }, text);
    place.append(log);
    log.scrollTop = log.scrollHeight;
    button.textContent = "Show the last lines again";
  });
  place.append(button);
  return place;
}

// The losses of all jobs.

// At most one read of all curves in this time, however often the steps change.
const LOSSES_MILLISECONDS = 10_000;
let lossesTimer = 0;
// By label. A job keeps its colour while it is shown, whichever jobs start or end meanwhile.
const colors = new Map();

function openLosses() {
  main.replaceChildren(make("p", { class: "soft" }, "Reading the losses …"));
  readLosses();
}

function updateLosses() {
  lossesTimer ||= setTimeout(() => {
    lossesTimer = 0;
    if (shown === "losses") readLosses();
  }, LOSSES_MILLISECONDS);
}

function chooseColors(curves) {
  const labels = curves.map((curve) => curve.label);
  for (const label of [...colors.keys()].filter((label) => !labels.includes(label))) colors.delete(label);
  for (const curve of curves) {
    const used = [...colors.values()];
    if (!colors.has(curve.label)) colors.set(curve.label, curves.findIndex((_, color) => !used.includes(color)));
    curve.color = colors.get(curve.label);
  }
}

async function readLosses() {
  const found = await ask("losses");
  if (shown !== "losses") return;
  chooseColors(found.curves || []);
  for (const curve of found.curves || []) {
    const job = stack?.jobs.find((one) => one.name === curve.label);
    curve.last = job && job.loss !== null ? `${job.loss_name} ${job.loss.toFixed(4)}` : "";
  }
  const chart = main.querySelector(".loss-chart");
  if (found.failure) main.replaceChildren(make("p", { class: "alarm" }, found.failure));
  else if (!found.curves.length) main.replaceChildren(make("p", { class: "soft" }, "No job has recorded a loss yet."));
  else if (chart) chart.show(found.curves);
  else main.replaceChildren(make("div", { class: "card" }, lossChart(found.curves), make("ul", { class: "legend" })), make("p", { class: "soft", id: "left-out" }));
  if (!main.querySelector(".legend")) return;
  main.querySelector(".legend").replaceChildren(...found.curves.map(legendEntry));
  setText("left-out", found.left_out ? `${found.left_out} more jobs have losses: open a job to see them.` : "");
}

function legendEntry(curve) {
  const job = stack?.jobs.find((one) => one.name === curve.label);
  const key = make("svg", { class: "key", viewBox: "0 0 28 8", "aria-hidden": "true" }, make("line", { class: `smooth c${curve.color % 8}`, x1: 0, x2: 28, y1: 4, y2: 4 }));
  const name = job ? make("a", { href: `#run/${job.name}/${job.run_id}` }, curve.label) : curve.label;
  return make("li", {}, key, " ", name, job?.differs ? ` (${job.differs})` : "");
}

// Past runs.

// A thousand rows would take the browser half a second.
const FIRST_ROWS = 100, MORE_ROWS = 500;

async function openPast() {
  const found = await ask("past");
  if (shown !== "past") return;
  if (found.failure) {
    main.replaceChildren(make("p", { class: "alarm" }, found.failure));
    return;
  }
  let limit = FIRST_ROWS;
  const body = make("tbody", {});
  const count = make("span", { class: "soft", role: "status" });
  const field = make("input", { type: "search", id: "filter", autocomplete: "off" });
  const more = make("button", { type: "button" }, `Show ${MORE_ROWS} more`);
  const fill = () => {
    const words = field.value.toLowerCase();
    const matching = found.runs.filter((run) => `${run.job} ${run.run_id} ${run.state}`.toLowerCase().includes(words));
    body.replaceChildren(...matching.slice(0, limit).map(pastRow));
    more.hidden = matching.length <= limit;
    count.textContent = `${matching.length} of ${found.runs.length} runs`;
  };
  field.addEventListener("input", () => {
    limit = FIRST_ROWS;
    fill();
  });
  more.addEventListener("click", () => {
    limit += MORE_ROWS;
    fill();
  });
  fill();
  const head = ["Run", "Job", "Queued", "State", "Loss", "Cost"].map((title) => make("th", { scope: "col" }, title));
  const table = make("table", { class: "past stacked" }, make("thead", {}, make("tr", {}, ...head)), body);
  main.replaceChildren(
    make("p", { class: "filter" }, make("label", { for: "filter" }, "Job, run or state"), field, count),
    make("div", { class: "scroll", role: "group", "aria-label": "Past runs", tabindex: "0" }, table), more);
  if (found.runs.some((run) => !run.fetched)) {
    main.append(make("p", { class: "soft" }, "Only fetched runs show when they were queued and how they ended: ", make("code", {}, `./flux fetch --all-runs${onStack()}`), " gets the others."));
  }
}

function pastRow(run) {
  const loss = run.loss === null ? "" : run.loss.toFixed(4);
  const cells = [cell("Job", run.job), cell("Queued", run.created), cell("State", run.state)];
  cells.push(cell("Loss", loss, { title: run.loss_name }), cell("Cost", dollars(run.spent_usd)));
  return make("tr", {}, cell("Run", make("a", { href: `#run/${run.job}/${run.run_id}` }, run.run_id)), ...cells);
}

// GPU classes.

async function openOffers() {
  main.replaceChildren(make("p", { class: "soft" }, "Asking for prices and free nodes …"));
  const found = await ask("offers");
  if (shown !== "offers") return;
  if (found.failure) {
    main.replaceChildren(make("p", { class: "alarm" }, found.failure));
    return;
  }
  main.replaceChildren(
    make("p", { class: "soft" }, "Time and dollars are for all declared jobs from the start."),
    ...found.clusters.map((cluster) => make("section", {}, make("h2", {}, cluster.heading), offersTable(found.columns, cluster))),
    make("p", { class: "soft" }, found.note));
}

function offersTable(columns, cluster) {
  const row = ([name, ...values]) => make("tr", {}, make("th", { scope: "row" }, name), ...values.map((value, index) => cell(columns[index + 1], value)));
  const head = make("tr", {}, ...columns.map((title) => make("th", { scope: "col" }, title)));
  return make("div", { class: "scroll", role: "group", "aria-label": cluster.heading, tabindex: "0" },
    make("table", { class: "stacked" }, make("thead", {}, head), make("tbody", {}, ...cluster.rows.map(row))));
}

// Requests, and what is shown.

/** The server's JSON, or {failure}. */
async function ask(address) {
  try {
    const answer = await fetch(address);
    return answer.ok ? await answer.json() : { failure: await answer.text() };
  } catch {
    return { failure: `The server of this page has ended: start \`./flux ui${onStack()}\` again.` };
  }
}

function show() {
  const wanted = location.hash.slice(1);
  const [kind, job, run] = wanted.split("/");
  const titles = { run: job, losses: "Losses of all jobs", past: "Past runs", offers: "GPU classes" };
  const title = titles[kind] ?? (stack ? `Jobs of ${stack.stack}` : "Jobs");
  setText("title", title);
  document.title = tabTitle(kind, job, run, title);
  const isNew = wanted !== shown;
  shown = wanted;
  if (isNew && kind === "run") openRun(job, run);
  else if (isNew) main.replaceChildren(make("p", { class: "soft" }, "Loading …"));
  if (kind === "run") updateRun(job, run);
  else if (kind === "losses") isNew ? openLosses() : updateLosses();
  else if (kind === "past" || kind === "offers") {
    if (isNew) kind === "past" ? openPast() : openOffers();
  } else if (stack) showJobs();
}

/** What the browser's tab shows: how far a job, or the stack, is. */
function tabTitle(kind, job, run, title) {
  const row = stack?.jobs.find((one) => one.name === job && one.run_id === run);
  if (kind === "run" && row) return row.phase === "training" ? `${row.step} of ${row.steps}, ${job}` : `${row.phase}, ${job}`;
  if (kind || !stack?.jobs.length) return title;
  const running = stack.jobs.filter((one) => one.state === "running").length;
  const ended = stack.jobs.filter((one) => one.ended).length;
  return running ? `${running} running, ${stack.stack}` : `${ended} of ${stack.jobs.length} ended, ${stack.stack}`;
}

function summary() {
  const money = cost(stack.spent_usd, stack.expected_usd);
  const ended = stack.jobs.filter((job) => job.ended).length;
  const jobs = stack.jobs.length ? `${ended} of ${stack.jobs.length} jobs have ended.` : "";
  return [jobs, money && `Cost ${money}.`, stack.note].filter(Boolean).join(" ");
}

function connection(text, style) {
  setText("connection", text);
  document.getElementById("connection").className = `state ${style}`;
}

// A browser has six connections to a server at most: one tab reads the stream for all, and another takes over when it is closed.

const tabs = new BroadcastChannel(location.pathname);
let received = {};

function receive(message) {
  const isNew = message.data !== received.data;
  received = message;
  if (message.isConnected) connection(message.data ? "live" : "loading …", message.data ? "good" : "other");
  else connection(`not connected: start \`./flux ui${onStack()}\` again`, "bad");
  if (!message.data || !isNew) return;
  stack = JSON.parse(message.data);
  setText("summary", summary());
  const error = document.getElementById("error");
  error.textContent = stack.error;
  error.hidden = !stack.error;
  show();
}

function readStream() {
  const pass = (change) => {
    receive({ ...received, ...change });
    tabs.postMessage(received);
  };
  const events = new EventSource("events");
  events.addEventListener("open", () => pass({ isConnected: true }));
  events.addEventListener("error", () => pass({ isConnected: false }));
  events.addEventListener("message", (event) => pass({ data: event.data }));
  tabs.addEventListener("message", (event) => event.data === "opened" && received.data && tabs.postMessage(received));
}

tabs.addEventListener("message", (event) => event.data !== "opened" && receive(event.data));
tabs.postMessage("opened");
// The promise never ends, so that this tab keeps the lock until it is closed.
navigator.locks.request(location.pathname, () => new Promise(readStream));
addEventListener("hashchange", () => {
  show();
  document.getElementById("title").focus();
});
