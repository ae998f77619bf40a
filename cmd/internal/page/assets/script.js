"use strict";
// Without this script the page is the same, and is loaded again every ten
// seconds. With it, only what changed is put in place: what has the keyboard's
// focus, is open or is scrolled stays so. A tap on a share of an address says
// whose it is, and who wants to read in peace can pause.
const live = document.getElementById("live");
const now = document.getElementById("now");
const every = 3000;

// same says that an element can become another by changing what is in it.
const same = (a, b) => a.nodeName === b.nodeName && a.id === b.id && a.dataset?.key === b.dataset?.key;

function become(is, wanted) {
  if (is.nodeType !== Node.ELEMENT_NODE) {
    if (is.data !== wanted.data) is.data = wanted.data;
    return;
  }
  if (is === document.activeElement && is.matches("input, select")) return; // somebody is writing there
  for (const { name } of [...is.attributes]) if (!wanted.hasAttribute(name)) is.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (is.getAttribute(name) !== value) is.setAttribute(name, value);
  const keyed = new Map();
  for (const child of is.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let at = is.firstChild;
  for (const next of [...wanted.childNodes]) {
    const found = keyed.get(next.dataset?.key) ?? at;
    if (!found || !same(found, next)) is.insertBefore(next, at);
    else {
      if (found === at) at = at.nextSibling;
      else is.insertBefore(found, at);
      become(found, next);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// busy says that somebody marks or presses something, which is to stay where it is.
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; });
const busy = () => pressed || (!getSelection().isCollapsed && live.contains(getSelection().anchorNode));

function show(page) {
  const focused = document.activeElement;
  become(live, page.getElementById("live"));
  become(now, page.getElementById("now"));
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

const bar = now.parentElement;
const told = document.createElement("p");
told.setAttribute("role", "status");
const pause = document.createElement("button");
pause.type = "button";
pause.id = "pause";
pause.textContent = "Pause";
pause.setAttribute("aria-pressed", "false");
bar.append(pause, told);

function stale(text) {
  document.body.classList.toggle("stale", text !== "");
  if (told.textContent !== text) told.textContent = text;
}

const paused = () => pause.getAttribute("aria-pressed") === "true";
const moment = () => new Date().toISOString().slice(11, 19);
let timer = 0, asked = 0, silent = "";

async function refresh() {
  clearTimeout(timer);
  const mine = ++asked;
  if (!document.hidden && !paused() && !busy()) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.status >= 500 || !page.getElementById("live")) throw new Error(answer.statusText);
      if (!paused() && !busy()) show(page);
      silent = "";
    } catch {
      silent ||= "natlessd has not answered since " + moment() + " UTC";
    }
    if (!paused()) stale(silent);
  }
  if (mine === asked) timer = setTimeout(refresh, every);
}

pause.addEventListener("click", () => {
  const is = !paused();
  pause.setAttribute("aria-pressed", String(is));
  stale("");
  told.textContent = is ? "paused" : "";
  if (!is) refresh();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
timer = setTimeout(refresh, 1200);

const hint = document.createElement("p");
hint.id = "hint";
hint.hidden = true;
document.body.append(hint);
document.addEventListener("pointerover", (event) => {
  const title = event.target.closest?.("rect")?.querySelector("title");
  hint.hidden = !title;
  if (title) hint.textContent = title.textContent;
});
