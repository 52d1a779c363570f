// What stands behind a number: the files that it was made of, link by link, and the answers of the models.

const GRADES = { right: "right", wrong: "wrong", unevaluated: "not evaluated", unparsable: "unparsable", too_long: "too long", killed: "grading killed" };

/** The dialog of the page; one at a time, closed by its button, by Esc, or by a click beside it. */
class Inspector {
  constructor(dialog) {
    this.dialog = dialog;
    this.title = dialog.querySelector("h2");
    this.body = dialog.querySelector(".body");
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  /** Opens on a cell of a table, or on a file alone. */
  async open({ title, table, cell, file, summary }) {
    this.title.textContent = title;
    this.body.replaceChildren(made("p", {}, "Unpacking…"));
    this.dialog.showModal();
    const chain = await (this.chain ??= unpacked("chain-data"));
    const targets = (cell ? chain?.cells[cell] : [chain?.files[file]])?.filter((index) => index !== undefined) ?? [];
    const parts = [["Chain", () => chainPart(chain, targets, cell ? `results/${chain?.study}/${table}.json --cell ${cell}` : file)]];
    if (cell) {
      const answers = (await (this.answers ??= unpacked("answer-data")))?.cells[cell];
      const problems = (await this.answers)?.problems ?? {};
      parts.push(["Answers", () => answersPart(answers, problems[cell.slice(cell.indexOf("/") + 1)] ?? {})]);
    }
    this.body.replaceChildren(...(summary ? [summary] : []), ...tabs(parts));
  }
}

/** A row of tabs and the part that is chosen; arrows move between tabs. */
function tabs(parts) {
  const place = made("div", { role: "tabpanel", tabindex: 0 });
  const buttons = parts.map(([name]) => made("button", { type: "button", role: "tab" }, name));
  const choose = (index) => {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-selected", String(i === index));
      button.tabIndex = i === index ? 0 : -1;
    });
    place.setAttribute("aria-label", parts[index][0]);
    place.replaceChildren(parts[index][1]());
  };
  buttons.forEach((button, index) => {
    button.addEventListener("click", () => choose(index));
    button.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      const next = (index + move + parts.length) % parts.length;
      choose(next);
      buttons[next].focus();
    });
  });
  choose(0);
  return [made("div", { role: "tablist", class: "tabs", "aria-label": "Behind this number" }, ...buttons), place];
}

// --- the chain -----------------------------------------------------------------------------------

function chainPart(chain, targets, question) {
  if (!chain || !targets.length) {
    return made("p", {}, "No manifest says how this was made, so there is no chain to show.");
  }
  const depth = new Map();
  const walk = (index, level) => {
    if ((depth.get(index) ?? -1) >= level) return;
    depth.set(index, level);
    for (const before of chain.jobs[chain.nodes[index].job]?.inputs ?? []) walk(before, level + 1);
  };
  targets.forEach((target) => walk(target, 0));
  const groups = new Map();
  for (const [index, level] of [...depth].sort((one, other) => one[1] - other[1] || one[0] - other[0])) {
    const node = chain.nodes[index];
    if (!groups.has(node.kind)) groups.set(node.kind, []);
    groups.get(node.kind).push(node);
  }
  const found = [...depth.keys()].map((index) => chain.nodes[index]);
  const bad = found.filter((node) => chain.bad.includes(node.status));
  const verdict = bad.length ? `${bad.length} of ${found.length} links are broken` : `All ${found.length} links hold`;
  return made("div", { class: "chain" },
    made("p", {}, made("b", { class: bad.length ? "no" : "yes" }, verdict), ". ", chain.note),
    made("ol", { class: "layers" }, ...[...groups].map(([kind, nodes]) => layer(chain, kind, nodes))),
    made("p", { class: "soft" }, "To check all of it again, in the project: ", made("code", {}, `chord audit ${question}`)),
  );
}

function layer(chain, kind, nodes) {
  const counts = new Map();
  for (const node of nodes) counts.set(node.status, (counts.get(node.status) ?? 0) + 1);
  const chips = [...counts].map(([status, count]) => chip(chain, status, nodes.length > 1 ? `${count} ${status}` : status));
  return made("li", {}, made("h3", {}, kind, " ", ...chips), made("ul", {}, ...nodes.map((node) => link(chain, node))));
}

function chip(chain, status, words) {
  const kind = chain.bad.includes(status) ? "no" : status === "verified" ? "yes" : "open";
  return made("span", { class: `chip ${kind}` }, words);
}

/** One file: its name and hash; behind them who made it, with what, and what is wrong. */
function link(chain, node) {
  const job = chain.jobs[node.job], findings = chain.findings[node.path] ?? [];
  const head = made("summary", {}, made("span", { class: "path" }, node.path), " ", made("code", { title: node.sha256 ?? "" }, (node.sha256 ?? "no hash").slice(0, 12)));
  if (node.status !== "verified") head.append(" ", chip(chain, node.status, node.status));
  const facts = [["SHA-256", node.sha256 ?? "none"], ["size", `${node.bytes.toLocaleString("en")} bytes`]];
  if (job) {
    facts.push(["made by", job.verb], ["when", `${job.started.slice(0, 19).replace("T", " ")} UTC, ${job.took}`], ["on", job.device]);
    if (job.seeds) facts.push(["seeds", job.seeds]);
    if (job.slurm) facts.push(["Slurm job", job.slurm]);
    facts.push(["code", job.code], ["commit", job.commit], ["versions", job.packages], ["command", job.command], ["manifest", job.manifest]);
  } else facts.push(["made by", "no verb: a recipe (written by a rule from config/), or something outside of results/"]);
  const list = made("dl", {}, ...facts.flatMap(([name, value]) => [made("dt", {}, name), made("dd", {}, value)]));
  const wrong = findings.map(([status, said, remedy]) => made("p", { class: "no" }, made("b", {}, status), `: ${said}. To do: `, made("code", {}, remedy)));
  return made("li", {}, made("details", {}, head, ...wrong, list));
}

// --- the answers ---------------------------------------------------------------------------------

function answersPart(cell, problems) {
  if (!cell?.length) return made("p", {}, "No answers of this cell are in the page: its answers.jsonl was not beside it when it was made.");
  const place = made("div", {}), state = { seed: 0, grade: "all" };
  const show = () => place.replaceChildren(...answersOf(cell, state, problems, show));
  show();
  return place;
}

/** A choice of one among several, as a row of buttons. */
function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, words]) => {
    const button = made("button", { type: "button", "aria-pressed": String(value === chosen), "data-value": value }, words);
    button.addEventListener("click", () => choose(value));
    return button;
  });
  return made("div", { class: "choice", role: "group", "aria-label": label }, made("span", {}, label), ...buttons);
}

function answersOf(cell, state, problems, show) {
  const run = cell[state.seed], counts = {};
  const all = run.problems.flatMap(([, samples]) => samples);
  for (const sample of all) counts[sample[1]] = (counts[sample[1]] ?? 0) + 1;
  const set = (key) => (value) => { state[key] = value; show(); };
  const grades = [["all", `all ${all.length}`], ...Object.keys(GRADES).filter((name) => counts[name]).map((name) => [name, `${GRADES[name]} ${counts[name]}`])];
  if (!counts[state.grade]) state.grade = "all";
  const shown = run.problems
    .map(([id, samples]) => [id, samples.filter((sample) => state.grade === "all" || sample[1] === state.grade)])
    .filter(([, samples]) => samples.length);
  const where = made("p", { class: "soft" }, `${all.length} of ${run.total} answers of this seed are here, the first ones. All: `,
    made("code", {}, run.file), run.sha256 ? `, SHA-256 ` : "", run.sha256 ? made("code", { class: "hash" }, run.sha256) : "", ".");
  return [
    cell.length > 1 ? choice("seed", cell.map((one, index) => [index, String(one.seed)]), state.seed, set("seed")) : "",
    choice("grade", grades, state.grade, set("grade")), where,
    made("ol", { class: "answers" }, ...shown.map(([id, samples]) => problemPart(id, problems[id] ?? ["", null], samples))),
  ];
}

function problemPart(id, [prompt, answer], samples) {
  return made("li", {},
    made("div", { class: "prompt" }, made("pre", {}, prompt), made("p", { class: "soft" }, `${id}`, answer === null ? "" : ", right answer: ", answer === null ? "" : made("code", {}, answer))),
    ...samples.map(([number, grade, tokens, finish, text, cut]) => made("div", { class: "answer" },
      made("span", { class: `chip ${grade === "right" ? "yes" : "no"}` }, GRADES[grade] ?? grade),
      made("pre", {}, text || "(nothing)"),
      made("small", {}, `sample ${number + 1}, ${tokens} tokens${finish === "length" ? ", cut off by the token limit" : ""}${cut ? `; ${cut.toLocaleString("en")} characters more in the file` : ""}`))));
}
