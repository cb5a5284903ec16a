// Takes the page over from its forms: the list as the server last told it, the wishes of whoever sits in
// front of it laid on top, drawn as one. Only events change the list: they come in order, while answers to
// requests may overtake them. A wish is laid aside once it was answered and its event was seen.

const $ = (id) => document.getElementById(id);
const [list, input, banner, trouble, say] = ["list", "new-todo", "banner", "trouble", "say"].map($);

const todos = new Map(); // id -> {id, text, completed, created}, as the server told it
const drafts = new Map(); // id -> {id, text, failed}, not yet known to be written
let returned = null; // a draft whose text went back to the field; it may be written all the same
const wishes = new Map(); // id -> {what: {text?, completed?, gone?}, answered, seen}
const rows = new Map(); // id -> its <li>
let database = { away: !banner.hidden, message: banner.textContent };
let known = true;
let silent = false; // this node does not answer
let editing = null; // {id, field}
let build = null;

// An event that did not come so long after its answer will not come: somebody undid the wish at once.
const PATIENCE = 3000;

const showNow = () => new URLSearchParams(location.search).get("show") ?? "all";
const included = { active: (todo) => !todo.completed, completed: (todo) => todo.completed };

// ---- Asking the server

class Refusal extends Error {}

async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(15000),
    });
  } catch {
    throw new Refusal("This node did not answer. Please try again; nothing is done twice.");
  }
  const text = await answer.text().catch(() => "");
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    // Not from the program: a proxy's page, say.
  }
  if (answer.ok) return content;
  const refusal = new Refusal(content?.detail ?? `The server answered ${answer.status}.`);
  refusal.status = answer.status;
  throw refusal;
}

function complain(message) {
  trouble.textContent = message;
  trouble.hidden = !message;
}

// While the database is away nothing is even tried, so that what was typed stays where it is.
function refused() {
  if (!database.away && !silent) return false;
  complain("This cannot be saved just now. Nothing was lost; please try again in a moment.");
  return true;
}

// Shows `what` at once, keeps it if the server agrees, and takes it back if not.
async function wishFor(ids, what, request, said) {
  complain("");
  const mine = new Map();
  for (const id of ids) {
    mine.set(id, { what: { ...wishes.get(id)?.what, ...what }, answered: false, seen: false });
    wishes.set(id, mine.get(id));
  }
  const layAside = () => {
    for (const [id, wish] of mine) if (wishes.get(id) === wish) wishes.delete(id);
    draw();
  };
  draw();
  try {
    await request();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    layAside();
    complain(error.message);
    return error;
  }
  for (const [id, wish] of mine) {
    wish.answered = true;
    settle(id);
  }
  setTimeout(layAside, PATIENCE);
  say.textContent = said;
  draw();
  return null;
}

// After news of a todo: is what was wished for it there?
function settle(id) {
  const wish = wishes.get(id);
  if (!wish) return;
  const todo = todos.get(id);
  const { text = todo?.text, completed = todo?.completed, gone = false } = wish.what;
  wish.seen ||= !todo || (!gone && text === todo.text && completed === todo.completed);
  if (wish.seen && wish.answered) wishes.delete(id);
}

// ---- What can be done

function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function add(typed) {
  const text = typed.trim();
  if (!text || refused()) return;
  // What came back is sent again under its id: should it have been written, it is not there twice.
  const draft = { id: returned?.text === text ? returned.id : uuid(), text, failed: false };
  returned = null;
  drafts.set(draft.id, draft);
  input.value = "";
  write(draft);
}

// The id makes trying again harmless: the todo is there once, however often it is sent.
async function write(draft) {
  draft.failed = false;
  complain("");
  draw();
  try {
    await ask("POST", "/api/todos", { id: draft.id, text: draft.text });
    draft.saved = true;
    setTimeout(() => drafts.delete(draft.id) && draw(), PATIENCE);
    say.textContent = `Added ${draft.text}`;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 409) {
      drafts.delete(draft.id); // It was written before, and changed by somebody since.
    } else {
      complain(error.message);
      draft.failed = true;
      if (input.value === "") {
        input.value = draft.text;
        drafts.delete(draft.id);
        returned = draft;
        arrived();
      }
    }
  }
  draw();
}

// The text that went back to the field was written all the same: it is taken out again, unless it was changed.
function arrived() {
  if (!returned || !todos.has(returned.id)) return;
  if (input.value.trim() === returned.text) {
    input.value = "";
    complain("");
    say.textContent = `Added ${returned.text}`;
  }
  returned = null;
}

async function change(id, wish, said) {
  if (refused()) return false;
  const request = () => ask("PATCH", `/api/todos/${id}`, wish);
  const error = await wishFor([id], wish, request, said);
  if (error?.status === 404) todos.delete(id);
  draw();
  return !error;
}

async function remove(id) {
  if (drafts.has(id)) {
    drafts.delete(id);
    return draw();
  }
  if (refused()) return;
  const text = todos.get(id)?.text;
  moveFocusFrom(id);
  const request = () => ask("DELETE", `/api/todos/${id}`);
  const error = await wishFor([id], { gone: true }, request, `Deleted ${text}`);
  if (error?.status === 404) {
    todos.delete(id); // Somebody else was quicker.
    complain("");
    draw();
  }
}

function markAll() {
  if (refused()) return;
  const told = everything().filter((todo) => todos.has(todo.id));
  const completed = told.some((todo) => !todo.completed);
  const ids = told.filter((todo) => todo.completed !== completed).map((todo) => todo.id);
  const request = () => ask("POST", "/api/todos/complete-all", { completed });
  wishFor(ids, { completed }, request, completed ? "All marked as complete" : "All marked as still to be done");
}

function clearCompleted() {
  if (refused()) return;
  const ids = everything().filter((todo) => todo.completed).map((todo) => todo.id);
  input.focus();
  const request = () => ask("DELETE", "/api/todos?completed=true");
  wishFor(ids, { gone: true }, request, "Completed todos were cleared");
}

// ---- Editing

function edit(id, text) {
  const row = rows.get(id);
  if (!row || editing || drafts.has(id)) return;
  const field = document.createElement("input");
  field.className = "edit";
  field.maxLength = input.maxLength;
  field.dir = "auto";
  field.setAttribute("aria-label", "Edit todo");
  field.value = text ?? todos.get(id).text;
  row.classList.add("editing");
  row.querySelector(".text").after(field);
  editing = { id, field };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) {
      event.preventDefault();
      finish(true, true);
    } else if (event.key === "Escape") {
      finish(false, true);
    }
  });
  field.addEventListener("blur", () => finish(true, false));
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

async function finish(save, refocus) {
  if (!editing) return;
  const { id, field } = editing;
  const typed = field.value.trim();
  const before = todos.get(id)?.text;
  const changed = save && typed !== before;
  if (changed && before !== undefined && refused()) return; // The field stays, with what was typed.
  editing = null;
  rows.get(id)?.classList.remove("editing");
  field.remove();
  if (refocus) rows.get(id)?.querySelector(".text").focus();
  draw();
  if (!changed) return;
  if (before === undefined) {
    // Somebody deleted it meanwhile: what was typed is kept where it can be added.
    if (input.value === "" && typed) input.value = typed;
    complain("This todo was deleted meanwhile.");
  } else if (!typed) {
    remove(id);
  } else if (!(await change(id, { text: typed }, `Changed to ${typed}`))) {
    edit(id, typed);
  }
}

// ---- Drawing

function moveFocusFrom(id) {
  const row = rows.get(id);
  if (!row?.contains(document.activeElement)) return;
  const shown = [...list.children].filter((other) => !other.hidden);
  const at = shown.indexOf(row);
  const next = shown[at + 1] ?? shown[at - 1];
  (next?.querySelector(".text") ?? input).focus();
}

function everything() {
  const told = [...todos.values()]
    .filter((todo) => !wishes.get(todo.id)?.what.gone)
    .map((todo) => ({ ...todo, ...wishes.get(todo.id)?.what, pending: wishes.get(todo.id)?.answered === false }));
  told.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
  const own = [...drafts.values()].filter((draft) => !todos.has(draft.id));
  return [...told, ...own.map((draft) => ({ ...draft, completed: false, pending: !draft.failed && !draft.saved }))];
}

function rowOf(todo) {
  let row = rows.get(todo.id);
  if (!row) {
    row = $("blank").content.firstElementChild.cloneNode(true);
    row.dataset.id = todo.id;
    rows.set(todo.id, row);
  }
  const text = row.querySelector(".text");
  const toggle = row.querySelector(".toggle");
  text.tabIndex = 0;
  text.setAttribute("role", "button");
  text.title = "Double-click, or press Enter or F2, to edit";
  if (text.textContent !== todo.text) text.textContent = todo.text;
  toggle.setAttribute("aria-checked", String(todo.completed));
  toggle.setAttribute("aria-label", todo.text);
  row.querySelector(".destroy").setAttribute("aria-label", `Delete ${todo.text}`);
  row.classList.toggle("completed", todo.completed);
  row.classList.toggle("pending", Boolean(todo.pending));
  row.classList.toggle("failed", Boolean(todo.failed));
  let retry = row.querySelector(".retry");
  if (todo.failed && !retry) {
    retry = document.createElement("button");
    retry.className = "retry";
    retry.type = "button";
    retry.textContent = "Try again";
    text.after(retry);
  } else if (!todo.failed) {
    retry?.remove();
  }
  return row;
}

function draw() {
  const shown = showNow();
  const all = everything();
  const kept = new Set(all.map((todo) => todo.id));
  for (const [id, row] of rows) {
    if (kept.has(id) || editing?.id === id) continue;
    moveFocusFrom(id);
    row.remove();
    rows.delete(id);
  }
  let at = null;
  for (const todo of all) {
    const row = rowOf(todo);
    const hide = !(included[shown]?.(todo) ?? true) && editing?.id !== todo.id;
    if (hide && !row.hidden) moveFocusFrom(todo.id);
    row.hidden = hide;
    const place = at ? at.nextElementSibling : list.firstElementChild;
    if (place !== row) list.insertBefore(row, place);
    at = row;
  }
  const left = all.filter((todo) => !todo.completed).length;
  $("count").textContent = `${left} ${left === 1 ? "item" : "items"} left`;
  for (const id of ["list", "foot", "mark-all"]) $(id).hidden = all.length === 0;
  $("empty").hidden = all.length > 0 || !known;
  $("clear").querySelector("button").hidden = left === all.length;
  const all_done = all.length > 0 && left === 0;
  $("mark-all").querySelector("button").setAttribute("aria-checked", String(all_done));
  for (const link of document.querySelectorAll(".filters a")) {
    if (link.dataset.show === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function drawBanner() {
  let message = "";
  if (silent) {
    message = "This node does not answer. You see the list as it was last known; it comes back by itself.";
  } else if (database.away) {
    const rest = known
      ? "You see the list as it was last known; nothing can be changed just now."
      : "The list appears here as soon as it can be read.";
    message = `${database.message} ${rest}`;
  }
  if (banner.textContent !== message) {
    banner.textContent = message;
    say.textContent = message || "The list is live again.";
    if (!message) complain("");
  }
  banner.hidden = !message;
  document.body.classList.toggle("stale", Boolean(message));
}

// ---- Hearing from the server

let events = null;
let complaint = 0;

function listen() {
  events?.close();
  events = new EventSource("/api/events");
  const on = (name, act) => events.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("node", (node) => {
    $("node").textContent = node.node;
    build ??= node.build;
    const busy = input.value || editing || drafts.size || wishes.size;
    if (build !== node.build && !busy) location.reload(); // A newer page is there.
  });
  on("snapshot", (snapshot) => {
    todos.clear();
    for (const todo of snapshot.todos) todos.set(todo.id, todo);
    for (const id of [...wishes.keys()]) settle(id);
    known = snapshot.known;
    arrived();
    tell(snapshot);
    draw();
    if (database.away) return;
    for (const draft of drafts.values()) {
      if (todos.has(draft.id)) drafts.delete(draft.id);
      else if (draft.failed) write(draft);
    }
  });
  on("change", (change) => {
    if (change.put) {
      todos.set(change.put.id, change.put);
      drafts.delete(change.put.id);
      arrived();
    } else {
      todos.delete(change.removed);
    }
    settle(change.put?.id ?? change.removed);
    draw();
  });
  on("database", tell);
  events.addEventListener("open", hear);
  events.addEventListener("error", () => {
    // The browser comes back by itself, unless it was told to go away. A short break is no news.
    complaint ||= setTimeout(() => {
      silent = true;
      drawBanner();
    }, 3000);
    if (events?.readyState === EventSource.CLOSED) setTimeout(() => events && listen(), 2000);
  });
}

function hear() {
  clearTimeout(complaint);
  complaint = 0;
  silent = false;
  drawBanner();
}

function tell(news) {
  database = { away: news.database !== "ok", message: news.message ?? "" };
  drawBanner();
}

// A browser opens six connections to one node, all its tabs together, and each page that listens holds
// one: a page nobody sees gives its own back when others open, or after a while.
function rest() {
  events?.close();
  events = null;
}
let newer = 0;
let sleep = 0;
const tabs = new BroadcastChannel("todos");
tabs.postMessage("opened");
tabs.addEventListener("message", () => {
  newer += 1;
  if (document.hidden && newer >= 3) rest();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(sleep);
  if (document.hidden) {
    sleep = setTimeout(rest, 600000);
  } else {
    newer = 0;
    if (!events) listen();
  }
});
addEventListener("pageshow", (event) => event.persisted && listen());

// ---- Beginning

for (const row of list.children) {
  const id = row.dataset.id;
  rows.set(id, row);
  todos.set(id, {
    id,
    text: row.querySelector(".text").textContent,
    completed: row.classList.contains("completed"),
    created: Number(row.dataset.created),
  });
}
known = !$("empty").hidden || todos.size > 0 || !database.away;

$("add").addEventListener("submit", (event) => {
  event.preventDefault();
  add(input.value);
});
$("mark-all").addEventListener("submit", (event) => {
  event.preventDefault();
  markAll();
});
$("clear").addEventListener("submit", (event) => {
  event.preventDefault();
  clearCompleted();
});
list.addEventListener("submit", (event) => event.preventDefault());
list.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  const id = row?.dataset.id;
  if (!id) return;
  if (event.target.closest(".destroy")) {
    event.preventDefault();
    remove(id);
  } else if (event.target.closest(".retry")) {
    write(drafts.get(id));
  } else if (event.target.closest(".toggle")) {
    event.preventDefault();
    const completed = !row.classList.contains("completed");
    if (todos.has(id)) change(id, { completed }, completed ? "Marked as complete" : "Marked as still to be done");
  } else if (event.target.closest(".text") && event.detail === 0) {
    edit(id); // Not a mouse: a screen reader pressed it.
  }
});
list.addEventListener("dblclick", (event) => {
  if (event.target.closest(".text")) edit(event.target.closest("li").dataset.id);
});
list.addEventListener("keydown", (event) => {
  const row = event.target.closest("li");
  if (!row || event.target.closest(".edit")) return;
  if (event.key === "F2" || (event.key === "Enter" && event.target.closest(".text"))) {
    event.preventDefault();
    edit(row.dataset.id);
  }
});
document.querySelector(".filters").addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  if (link.dataset.show !== showNow()) history.pushState(null, "", link.href);
  draw();
});
addEventListener("popstate", draw);

draw();
listen();
