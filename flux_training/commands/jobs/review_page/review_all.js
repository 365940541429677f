// What concerns more than one caption, or the image itself: search and replace, the trigger word, findings, another caption, setting aside.
// review.js has the single caption.
"use strict";

const undone = document.getElementById("undo");
const done = document.getElementById("done");
const actions = [];
const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
const cardOf = (field) => field.closest(".card");

/** Remembers how to undo what was just done. */
function remember(text, undo) {
  actions.push({ text, undo });
  done.textContent = text;
  undone.disabled = false;
}

undone.addEventListener("click", async () => {
  const last = actions.pop();
  undone.disabled = actions.length === 0;
  done.textContent = (await last.undo()) || `Undone: ${last.text}`;
  loadFindings();
});

/** Changes the captions that are shown by `change`, which returns a caption or null, and saves them. */
async function changeAll(change, what) {
  const changed = [];
  let left = 0;
  for (const field of shown().filter((one) => !one.readOnly)) {
    const before = field.value.trim();
    const after = before && change(before);
    if (after === null || after === before) continue;
    if (after.trim() === "") {
      left += 1;
      continue;
    }
    field.value = after;
    changed.push({ field, before, after: after.trim() });
  }
  await Promise.all(changed.map(({ field }) => save(field)));
  const saves = changed.filter(({ field, after }) => saved.get(field) === after);
  const notes = [
    changed.length > saves.length && `${counted(changed.length - saves.length, "caption")} could not be saved`,
    left && `${counted(left, "caption")} left alone, because nothing would remain`,
  ].filter(Boolean);
  const text = [`${what} in ${counted(saves.length, "caption")}`, ...notes].join("; ");
  if (saves.length) remember(text, () => restore(saves));
  else done.textContent = text;
  loadFindings();
}

/** Restores the captions that were not changed again meanwhile. */
async function restore(changes) {
  const same = changes.filter(({ field, after }) => field.value.trim() === after);
  for (const { field, before } of same) field.value = before;
  await Promise.all(same.map(({ field }) => save(field)));
  const kept = changes.length - same.length;
  return kept ? `Undone, but for ${counted(kept, "caption")} that you have changed since` : "";
}

document.getElementById("replace").addEventListener("click", () => {
  const search = document.getElementById("search").value;
  const replacement = document.getElementById("replacement").value;
  if (search === "") done.textContent = "Enter what to search.";
  else changeAll((text) => text.replaceAll(search, () => replacement), `“${search}” replaced by “${replacement}”`);
});

document.getElementById("insert")?.addEventListener("click", () => {
  const isAtEnd = document.getElementById("place").value === "end";
  const insert = (text) => (hasTrigger(text) ? null : isAtEnd ? `${text} ${trigger}` : `${trigger} ${text}`);
  changeAll(insert, "Trigger word inserted");
});

// Findings.

const finding = document.getElementById("finding");

async function loadFindings() {
  let found;
  try {
    found = await (await fetch("findings")).json();
  } catch {
    return;
  }
  for (const field of fields) {
    const own = found[field.dataset.image] ?? [];
    const list = cardOf(field).querySelector(".found");
    list.replaceChildren(...own.map(({ message }) => Object.assign(document.createElement("li"), { textContent: message })));
    list.hidden = own.length === 0;
    cardOf(field).dataset.findings = own.map(({ code }) => code).join(" ");
  }
  showCodes(Object.values(found).flat().map(({ code }) => code));
  filterShown();
}

function showCodes(codes) {
  const chosen = finding.value;
  const options = [...new Set(codes)].sort().map((code) => new Option(`${code} (${codes.filter((one) => one === code).length})`, code));
  if (chosen && !codes.includes(chosen)) options.push(new Option(`${chosen} (0)`, chosen));
  finding.replaceChildren(finding.options[0], ...options);
  finding.value = chosen;
}

finding.addEventListener("change", filterShown);

// One image.

async function put(address, body) {
  try {
    return await fetch(address, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    return new Response("the review has ended; start it again and reload this page", { status: 503 });
  }
}

async function captionAgain(field, button) {
  button.disabled = true;
  say(field, "asking the model …");
  const answer = await put(`again/${field.dataset.image}`, {});
  button.disabled = false;
  if (!answer.ok) {
    say(field, `no caption: ${await answer.text()}`, "bad");
    return;
  }
  const before = field.value.trim();
  field.value = (await answer.json()).caption;
  await save(field);
  const after = saved.get(field);
  if (before && after === field.value.trim()) remember("An image was captioned again", () => restore([{ field, before, after }]));
  loadFindings();
}

async function setAside(field) {
  await save(field);
  const answer = await put(`aside/${field.dataset.image}`, { aside: true });
  const name = cardOf(field).querySelector("label").textContent;
  if (!answer.ok) {
    say(field, `not set aside: ${await answer.text()}`, "bad");
    return;
  }
  const following = shown()[shown().indexOf(field) + 1] ?? shown()[shown().indexOf(field) - 1];
  cardOf(field).dataset.aside = "";
  addAside(field, name);
  filterShown();
  count();
  remember(`${name} was set aside`, () => putBack(field.dataset.image));
  following?.focus();
  loadFindings();
}

function addAside(field, name) {
  const [item, image, text, button] = ["li", "img", "span", "button"].map((tag) => document.createElement(tag));
  item.dataset.image = field.dataset.image;
  image.src = `aside/${field.dataset.image}`;
  image.alt = "";
  text.textContent = name;
  Object.assign(button, { type: "button", className: "back", textContent: "Put back" });
  item.append(image, " ", text, " ", button);
  document.querySelector(".aside-list").append(item);
  document.getElementById("aside").hidden = false;
}

/** Empty, or why the image could not be put back. */
async function putBack(address) {
  const answer = await put(`aside/${address}`, { aside: false });
  if (!answer.ok) return `Not put back: ${await answer.text()}`;
  const field = fields.find((one) => one.dataset.image === address);
  // An image that was set aside before this page was opened has no card yet.
  if (!field) location.reload();
  else delete cardOf(field).dataset.aside;
  for (const item of document.querySelectorAll(".aside-list li")) if (item.dataset.image === address) item.remove();
  document.getElementById("aside").hidden = document.querySelector(".aside-list li") === null;
  filterShown();
  count();
  return "";
}

document.addEventListener("click", async (event) => {
  const field = event.target.closest(".card")?.querySelector("textarea");
  if (event.target.matches(".again")) captionAgain(field, event.target);
  else if (event.target.matches(".aside")) setAside(field);
  else if (event.target.matches(".back")) {
    const item = event.target.closest("li");
    done.textContent = (await putBack(item.dataset.image)) || `${item.querySelector("span").textContent} was put back`;
    loadFindings();
  }
});

loadFindings();
