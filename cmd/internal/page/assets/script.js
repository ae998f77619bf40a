"use strict";
// Without this script the page is the same, and is loaded again every ten
// seconds. With it, only what changed is put in place, and a tap on a share of
// an address says whose it is.
const live = document.getElementById("live");

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (answer.ok && !live.matches(":focus-within")) live.replaceChildren(...page.getElementById("live").childNodes);
      document.body.classList.remove("stale");
    } catch {
      document.body.classList.add("stale");
    }
  }
  setTimeout(refresh, 3000);
}
setTimeout(refresh, 1500);

const hint = document.createElement("p");
hint.id = "hint";
hint.hidden = true;
document.body.append(hint);
document.addEventListener("pointerover", (event) => {
  const title = event.target.closest?.("rect")?.querySelector("title");
  hint.hidden = !title;
  if (title) hint.textContent = title.textContent;
});
