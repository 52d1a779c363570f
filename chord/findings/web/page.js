// Joins the parts: theme, figures, and the dialog behind numbers.

const PALETTE = 8, DASHES = ["none", "7 3", "2 2.5", "8 3 2 3"];

/** Color and dashes of every arm, the same in all figures: pure RL in ink, the others in order of appearance. */
function styles(figures) {
  const arms = new Set(["grpo", ...figures.flatMap((figure) => figure.panels.flatMap((panel) => panel.curves.map((curve) => curve.arm)))]);
  const order = [...arms];
  return (arm) => {
    const index = order.indexOf(arm);
    return { color: `var(--arm-${index % PALETTE})`, dash: DASHES[Math.floor(index / PALETTE) % DASHES.length] };
  };
}

function themed() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const say = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`);
  };
  try { root.dataset.theme = localStorage.getItem("chord-theme") ?? ""; } catch { /* a browser that keeps nothing for files */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("chord-theme", root.dataset.theme); } catch { /* as above */ }
    say();
  });
  dark.addEventListener("change", say);
  button.hidden = false;
  say();
}

async function start() {
  document.documentElement.classList.add("js");
  themed();
  const inspector = new Inspector(document.getElementById("inspector"));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-title]");
    if (!button) return;
    const { title, table, cell, file } = button.dataset;
    const source = cell ? document.getElementById(`about-${table}-${cell}`) : null;
    inspector.open({ title, table, cell, file, summary: source ? source.content.cloneNode(true) : null });
  });
  const figures = (await unpacked("figure-data")) ?? [];
  const style = styles(figures);
  for (const data of figures) {
    const place = document.querySelector(`[data-figure="${CSS.escape(data.artefact)}"]`);
    if (place) new Figure(place, data, style);
  }
}

start();
