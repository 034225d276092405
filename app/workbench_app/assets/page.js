// A number outside its range is set to the nearest that is allowed, and the page says so.
document.addEventListener("change", ({ target: box }) => {
  if (!(box instanceof HTMLInputElement) || box.type !== "number") return;
  const block = box.closest(".block");
  if (!block) return;
  block.querySelector(":scope > .out-of-range")?.remove();
  const low = box.min === "" ? -Infinity : Number(box.min), high = box.max === "" ? Infinity : Number(box.max);
  const empty = box.value === "", typed = empty ? "An empty box" : box.value;
  // A slider has no empty state, and would silently take its least; any other box that is empty means its default.
  if (empty && !block.querySelector("input[type=range]")) return;
  const allowed = Math.min(Math.max(Number(box.value), low), high);
  if (!empty && Number(box.value) === allowed) return;
  box.value = allowed;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  const range = low === -Infinity ? `up to ${high}` : high === Infinity ? `${low} or more` : `${low} to ${high}`;
  const said = document.createElement("div");
  said.className = "out-of-range";
  said.setAttribute("role", "status");
  said.textContent = `${typed} is out of range (${range}): set to ${allowed}.`;
  block.append(said);
}, true);

// What stands there when a new run is asked for is an earlier run's; what the new one shows takes its place.
const SHOWN_BY = { run: ["left-view", "right-view"], compare: ["study-table", "figures"], observe: ["observe-figures"] };
document.addEventListener("click", ({ target }) => {
  for (const id of SHOWN_BY[target.closest?.("button")?.id] ?? []) {
    const shown = document.querySelector(`#${id} .prose`);
    if (!shown?.childElementCount) continue;
    shown.dataset.earlier = "";
    const renewed = new MutationObserver(() => { delete shown.dataset.earlier; renewed.disconnect(); });
    renewed.observe(shown, { childList: true });
  }
}, true);
