// Saves a caption when it loses the focus; shows the images that match the filters. review_all.js changes several captions. All requests go to the server of this page.
"use strict";

const fields = [...document.querySelectorAll("textarea")];
const trigger = document.body.dataset.trigger;
const saved = new Map(fields.map((field) => [field, field.value.trim()]));
const pending = new Map();

const hasTrigger = (text) => text.includes("[trigger]") || (trigger !== "" && text.includes(trigger));

function say(field, text, kind = "") {
  const state = document.getElementById(field.getAttribute("aria-describedby"));
  state.textContent = text;
  state.className = `note ${kind}`;
}

const faulty = (fault) => `${fault}. It is not changed. Fix it in an editor (save as UTF-8), then reload this page.`;
const isMissing = (field) => saved.get(field) === "" && !field.dataset.fault;

function describe(field) {
  const text = saved.get(field);
  if (field.dataset.fault) say(field, faulty(field.dataset.fault), "bad");
  else if (text === "") say(field, "no caption yet", "bad");
  else if (trigger !== "" && !hasTrigger(text)) say(field, "without the trigger word: the trainer adds it at the start");
  else say(field, `${text.split(/\s+/).length} words`);
}

async function send(field) {
  const caption = field.value.trim();
  const before = saved.get(field);
  if (caption === before) return;
  if (caption === "") {
    say(field, "an empty caption is not saved; Esc restores the last one", "bad");
    return;
  }
  say(field, "saving …");
  let answer;
  try {
    answer = await fetch(`caption/${field.dataset.image}`, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ before, caption }),
      keepalive: true,
    });
  } catch {
    say(field, "not saved: the review has ended; start it again and reload this page", "bad");
    return;
  }
  if (answer.status === 204) {
    saved.set(field, caption);
    describe(field);
    say(field, `saved, ${caption.split(/\s+/).length} words`, "good");
    count();
  } else if (answer.status === 409) {
    const { caption: now, fault } = await answer.json();
    if (fault) {
      say(field, `not saved: ${faulty(fault)}`, "bad");
      return;
    }
    saved.set(field, now);
    say(field, `not saved: another program changed the file to “${now}”. Leave this field again to overwrite it.`, "bad");
  } else {
    say(field, `not saved: ${await answer.text()}`, "bad");
  }
}

// One request at a time for each caption; later changes are sent after it.
function save(field) {
  const next = (pending.get(field) ?? Promise.resolve()).then(() => send(field));
  pending.set(field, next);
  return next;
}

function count() {
  const inDataset = fields.filter((field) => !("aside" in field.closest(".card").dataset));
  document.getElementById("count").textContent = inDataset.length;
  document.getElementById("missing").textContent = inDataset.filter(isMissing).length;
  inDataset.forEach((field, index) => {
    field.closest(".card").querySelector(".place").textContent = `${index + 1} of ${inDataset.length}`;
  });
}

function shown() {
  return fields.filter((field) => !field.closest(".card").hidden);
}

function go(field, by) {
  const all = shown();
  const target = all[all.indexOf(field) + by];
  if (!target) return;
  target.focus();
  target.closest(".card").scrollIntoView({ block: "start" });
}

function filterShown() {
  const which = document.querySelector("input[name=show]:checked").value;
  const code = document.getElementById("finding").value;
  for (const field of fields) {
    const card = field.closest(".card");
    const matches = which === "all" || (which === "missing" ? isMissing(field) : !hasTrigger(saved.get(field)));
    const isFound = code === "" || (card.dataset.findings ?? "").split(" ").includes(code);
    card.hidden = !matches || !isFound || "aside" in card.dataset;
  }
  document.getElementById("none").hidden = shown().length > 0;
}

for (const field of fields) {
  describe(field);
  field.addEventListener("blur", () => save(field));
  field.addEventListener("input", () => say(field, "not saved yet"));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      save(field);
      go(field, 1);
    } else if (event.altKey && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      go(field, event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape") {
      field.value = saved.get(field);
      describe(field);
    }
  });
}

for (const choice of document.querySelectorAll("input[name=show]")) {
  choice.addEventListener("change", filterShown);
}

addEventListener("pagehide", () => fields.forEach(save));
