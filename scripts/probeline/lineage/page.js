"use strict";
// The lineage page. Every text comes from records that may be hostile: it enters the page as a text node or
// as an attribute of a fixed name, never as HTML (the policy of the page forbids that, too).

const data = JSON.parse(document.getElementById("data").textContent);
const { artifacts, nodes, games } = data;
const picture = document.getElementById("picture");
const panel = document.getElementById("panel");
const input = document.querySelector("#search input");
const results = document.getElementById("results");
const filter = document.getElementById("filter");
const SPLITS = ["train", "validation", "test", "all"];
const MOST_RESULTS = 12;
const MOST_LINES = 100;

const artifactOf = new Map(artifacts.map((artifact, index) => [artifact.name, index]));
const nodeNamed = new Map(nodes.map((node, index) => [node.name, index]));
const nodeOf = new Map();
nodes.forEach((node, index) => node.members.forEach((member) => nodeOf.set(member, index)));
const children = artifacts.map(() => new Set());
artifacts.forEach((artifact, index) => {
  artifact.parents = new Set(artifact.inputs.map((given) => given[3]).filter((parent) => parent >= 0));
  artifact.parents.forEach((parent) => children[parent].add(index));
});
// A game is its content, whatever it is called; where a record has none, that of the only game of its name.
const contentsOf = new Map();
games.forEach(([name, content]) => {
  if (!contentsOf.has(name)) contentsOf.set(name, new Set());
  if (content !== null) contentsOf.get(name).add(content);
});
const gameOf = games.map(([name, content]) =>
  content ?? (contentsOf.get(name).size === 1 ? [...contentsOf.get(name)][0] : name));
const namesOf = new Map(gameOf.map((game) => [game, new Set()]));
games.forEach(([name], index) => namesOf.get(gameOf[index]).add(name));
// The artifacts that hold a game: [artifact, split].
const holdersOf = new Map(gameOf.map((game) => [game, []]));
artifacts.forEach((artifact, index) => {
  for (const [split, members] of Object.entries(artifact.games)) {
    members.forEach((game) => holdersOf.get(gameOf[game]).push([index, split]));
  }
});
const boxes = new Map([...picture.querySelectorAll("a")].map((box) => [Number(box.dataset.node), box]));
const edges = [...picture.querySelectorAll(".edge")];

// ---- making elements

function element(tag, attributes, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...content.flat().filter((part) => part !== null && part !== ""));
  return made;
}

function encode(text) {
  return encodeURIComponent(text).replaceAll("%2F", "/");
}

// In an address a game has its name, or its content where several games have that name.
function address(name, game) {
  const called = game ? firstName(game) : "";
  return `#${encode(name)}${game ? `&game=${encode(isShared(called) ? game : called)}` : ""}`;
}

function firstName(game) {
  return [...namesOf.get(game)].sort(byName)[0];
}

function isShared(name) {
  return contentsOf.get(name).size > 1;
}

function titleOf(game) {
  const name = firstName(game);
  return isShared(name) && game !== name ? `${name} (${game.slice(0, 12)})` : name;
}

function link(name, text) {
  return element("a", { href: address(name, null) }, text ?? name);
}

function gameLink(game, text) {
  return element("a", { href: address("", game), "data-game": "" }, text ?? titleOf(game));
}

function list(items, line) {
  const made = element("ul", null, items.slice(0, MOST_LINES).map((item) => element("li", null, line(item))));
  let shown = MOST_LINES;
  if (items.length > shown) {
    const more = element("button", { type: "button" }, `show more of ${items.length.toLocaleString("en")}`);
    more.addEventListener("click", () => {
      const next = items.slice(shown, shown + 10 * MOST_LINES);
      shown += next.length;
      next.forEach((item) => made.insertBefore(element("li", null, line(item)), more.parentNode));
      if (shown >= items.length) more.parentNode.remove();
    });
    made.append(element("li", null, more));
  }
  return made;
}

// What is closed is made when it is opened: a page of 1,000 artifacts stays light.
function folded(title, make, open, count) {
  const made = element("details", null, element("summary", null, title,
    count ? element("span", { class: "faint" }, ` ${count.toLocaleString("en")}`) : ""));
  let filled = false;
  const fill = () => {
    if (made.open && !filled) {
      filled = true;
      made.append(make());
    }
  };
  made.addEventListener("toggle", fill);
  if (open) {
    made.open = true;
    fill();
  }
  return made;
}

function table(rows) {
  return element("table", null, rows.map(([name, ...cells]) =>
    element("tr", null, element("th", { scope: "row" }, name), cells.map((cell) => element("td", null, cell)))));
}

const byName = new Intl.Collator("en", { numeric: true }).compare;

function digest(text) {
  return element("span", { class: "digest" }, text);
}

function splitOf(name) {
  return element("span", { class: `split ${SPLITS.includes(name) ? name : "all"}` }, name);
}

function plain(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function many(number, one, several) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : several ?? `${one}s`}`;
}

function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const step = Math.min(Math.floor(Math.log10(Math.max(number, 1)) / 3), 4);
  return step === 0 ? many(number, "byte") : `${(number / 1000 ** step).toPrecision(3)} ${units[step]}`;
}

function seconds(number) {
  if (number < 60) return `${Number(number.toPrecision(3))} s`;
  const minutes = Math.round(number / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// ---- the graph

function reach(start, next) {
  const found = new Set(start);
  for (const index of found) next(index).forEach((other) => found.add(other));
  start.forEach((index) => found.delete(index));
  return found;
}

const upOf = (start) => reach(start, (index) => artifacts[index].parents);
const downOf = (start) => reach(start, (index) => children[index]);

// Artifacts that a selection stands for; a source stands for those that read it.
function chosen(node, artifact) {
  if (artifact !== null) return [artifact];
  return nodes[node].kind === "sources" ? [] : nodes[node].members.map((member) => artifactOf.get(member));
}

function readersOf(node) {
  const files = new Set(nodes[node].members);
  return artifacts.flatMap((artifact, index) => artifact.inputs.some(([name, , , parent]) =>
    parent < 0 && files.has(name)) ? [index] : []);
}

function sourcesOf(indices) {
  const found = new Set();
  indices.forEach((index) => artifacts[index].inputs.forEach(([name, , , parent]) => {
    if (parent < 0 && nodeOf.has(name)) found.add(nodeOf.get(name));
  }));
  return found;
}

// ---- state: it lives in the address behind the #, so that every view can be linked to

function stateOf(hash) {
  const state = { node: null, artifact: null, game: null, unknown: null };
  const [name, ...rest] = hash.replace(/^#/, "").split("&").map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  const game = rest.find((part) => part.startsWith("game="));
  if (game !== undefined) state.game = game.slice("game=".length);
  if (artifactOf.has(name)) {
    state.artifact = artifactOf.get(name);
    state.node = nodeOf.get(name);
  } else if (nodeNamed.has(name)) {
    state.node = nodeNamed.get(name);
  } else if (name) {
    state.unknown = `There is no ${name} here.`;
  }
  if (state.game !== null && !holdersOf.has(state.game)) {
    const contents = [...(contentsOf.get(state.game) ?? [])];
    if (contents.length !== 1) {
      state.unknown = contents.length === 0 ? `There is no game ${state.game} here.`
        : `${contents.length} games are called ${state.game}. Search for it, and choose one.`;
    }
    state.game = contents.length === 1 ? contents[0] : null;
  }
  return state;
}

// A page that was made for one artifact opens with it.
if (!location.hash && data.target) history.replaceState(null, "", address(data.target, null));
let state = stateOf(location.hash);

function go(name, game) {
  location.hash = address(name, game);
}

function nameOf(shown) {
  if (shown.artifact !== null) return artifacts[shown.artifact].name;
  return shown.node === null ? "" : nodes[shown.node].name;
}

document.addEventListener("click", (event) => {
  const clicked = event.target.closest('a[href^="#"]');
  if (!clicked || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  // An artifact keeps the game, and a game the artifact.
  const target = stateOf(clicked.getAttribute("href"));
  if ("home" in clicked.dataset) go("", null);
  else if ("game" in clicked.dataset) go(nameOf(state), target.game);
  else go(nameOf(target), state.game);
});

window.addEventListener("hashchange", () => {
  state = stateOf(location.hash);
  show(true);
});

function show(moved) {
  panel.replaceChildren(...(state.node === null
    ? state.game === null ? overview() : gameView(state.game)
    : state.artifact === null ? nodeView(state.node) : artifactView(state.artifact)));
  panel.scrollTop = 0;
  document.title = `${nameOf(state) || (state.game ? `game ${titleOf(state.game)}` : "Lineage")} · Probeline`;
  filter.hidden = state.game === null;
  filter.querySelector("b").textContent = state.game === null ? "" : titleOf(state.game);
  paint();
  if (moved && (state.node !== null || state.game !== null) && getComputedStyle(document.body).display === "block") {
    const { top } = panel.getBoundingClientRect();
    if (top < 90 || top > innerHeight * 0.8) panel.scrollIntoView({ block: "start" });
  }
}

filter.querySelector("button").addEventListener("click", () => go(nameOf(state), null));

// ---- the picture

function paint(searched) {
  const start = state.node === null ? [] : chosen(state.node, state.artifact);
  const source = state.node !== null && nodes[state.node].kind === "sources";
  const readers = source ? readersOf(state.node) : [];
  const up = upOf(start);
  const down = source ? new Set([...readers, ...downOf(readers)]) : downOf(start);
  const inNode = (indices) => new Set([...indices].map((index) => nodeOf.get(artifacts[index].name)));
  const upNodes = new Set([...inNode(up), ...sourcesOf([...start, ...up])]);
  const downNodes = inNode(down);
  const held = holdersOf.get(state.game) ?? [];
  const hits = inNode(held.map(([index]) => index));
  for (const [number, box] of boxes) {
    const near = number === state.node || upNodes.has(number) || downNodes.has(number);
    const kept = searched ? searched.has(number)
      : state.node !== null ? near : state.game !== null ? hits.has(number) : true;
    box.classList.toggle("selected", number === state.node);
    box.classList.toggle("up", upNodes.has(number));
    box.classList.toggle("down", downNodes.has(number));
    box.classList.toggle("hit", hits.has(number));
    box.classList.toggle("dim", !kept);
    box.setAttribute("aria-current", number === state.node ? "true" : "false");
    mark(box, number, held);
  }
  for (const edge of edges) {
    const from = Number(edge.dataset.from);
    const to = Number(edge.dataset.to);
    const above = upNodes.has(from) && (to === state.node || upNodes.has(to));
    const below = downNodes.has(to) && (from === state.node || downNodes.has(from));
    edge.classList.toggle("up", above);
    edge.classList.toggle("down", below);
    edge.classList.toggle("dim", searched ? true : state.node !== null ? !above && !below
      : state.game !== null && !(hits.has(from) && hits.has(to)));
  }
  const current = boxes.get(state.node ?? -1);
  for (const box of boxes.values()) box.setAttribute("tabindex", "-1");
  (current ?? boxes.values().next().value)?.setAttribute("tabindex", "0");
  if (current) reveal(current);
}

// In which split of it a node holds the game.
function mark(box, number, held) {
  box.querySelector(".badge")?.remove();
  const here = held.filter(([index]) => nodeOf.get(artifacts[index].name) === number);
  if (here.length === 0) return;
  const splits = [...new Set(here.map(([, split]) => split))].sort(
    (one, other) => SPLITS.indexOf(one) - SPLITS.indexOf(other));
  const frame = box.querySelector(".box");
  const badge = document.createElementNS("http://www.w3.org/2000/svg", "text");
  badge.setAttribute("class", `badge ${splits.length === 1 && SPLITS.includes(splits[0]) ? splits[0] : ""}`);
  badge.setAttribute("x", Number(frame.getAttribute("x")) + Number(frame.getAttribute("width")) - 8);
  badge.setAttribute("y", Number(frame.getAttribute("y")) + 35);
  badge.textContent = splits.map((split) => (split === "all" ? "holds it" : split)).join(" + ");
  box.append(badge);
}

function reveal(box) {
  const frame = box.getBoundingClientRect();
  const view = picture.getBoundingClientRect();
  if (frame.left < view.left || frame.right > view.right) {
    picture.scrollLeft += frame.left - view.left - (view.width - frame.width) / 2;
  }
  if (frame.top < view.top || frame.bottom > view.bottom) {
    picture.scrollTop += frame.top - view.top - (view.height - frame.height) / 2;
  }
}

// Arrows: left and right along the lines, up and down in the column.
picture.addEventListener("keydown", (event) => {
  const box = event.target.closest("a");
  if (!box || !event.key.startsWith("Arrow")) return;
  event.preventDefault();
  const number = Number(box.dataset.node);
  const place = (index) => boxes.get(index).getBoundingClientRect();
  const here = place(number);
  const sideways = {
    ArrowLeft: () => nodes[number].parents,
    ArrowRight: () => nodes.flatMap((node, index) => (node.parents.includes(number) ? [index] : [])),
  }[event.key];
  const candidates = sideways ? sideways() : [...boxes.keys()].filter((index) => {
    const there = place(index);
    return there.left === here.left && (event.key === "ArrowUp" ? there.top < here.top : there.top > here.top);
  });
  const distance = (index) => Math.abs(place(index).top - here.top);
  const next = candidates.sort((one, other) => distance(one) - distance(other))[0];
  if (next === undefined) return;
  for (const other of boxes.values()) other.setAttribute("tabindex", "-1");
  boxes.get(next).setAttribute("tabindex", "0");
  boxes.get(next).focus({ preventScroll: true });
  reveal(boxes.get(next));
});

// ---- the panel

function heading(title, what) {
  return [element("h2", { tabindex: "-1" }, title), element("p", { class: "faint" }, what)];
}

function costOf(indices) {
  const total = { seconds: 0, gpuSeconds: 0, usd: 0 };
  for (const index of indices) {
    for (const key of Object.keys(total)) total[key] += Number(artifacts[index].cost[key]) || 0;
  }
  return costWords(total);
}

function costWords(cost) {
  const words = [seconds(Number(cost.seconds) || 0)];
  words.push(`${seconds(Number(cost.gpuSeconds) || 0)} of GPU`, `${Number((Number(cost.usd) || 0).toFixed(4))} USD`);
  return words.join(", ");
}

function overview() {
  const everything = artifacts.map((_, index) => index);
  const kinds = new Map();
  artifacts.forEach((artifact) => kinds.set(artifact.kind, [...(kinds.get(artifact.kind) ?? []), artifact.name]));
  const faults = Object.entries(data.faults);
  return [
    ...heading("Lineage", `${many(artifacts.length, "artifact")}, ${many(holdersOf.size, "game")}.`),
    state.unknown === null ? "" : element("p", { class: "warning" }, state.unknown),
    data.missing.length === 0 ? "" : element("div", { class: "warning" },
      element("p", null, `${many(data.missing.length, "artifact")} that others were made from ${
        data.missing.length === 1 ? "has" : "have"} no record:`), list(data.missing, (name) => name)),
    faults.length === 0 ? "" : element("div", { class: "warning" },
      element("p", null, `${many(faults.length, "record")} could not be used:`), list(faults, ([, text]) => text)),
    element("p", null, "Click a box, or search: artifacts by name or digest, games by name. A dotted line is a "
      + "direct input that is also one by a longer way."),
    table([
      ["root digest", digest(data.root)],
      ["cost of all", costOf(everything)],
    ]),
    element("h3", null, "Artifacts"),
    ...[...kinds].map(([kind, names]) =>
      folded(element("span", { class: `kind ${colourOf(kind)}` }, kind),
        () => list(names.sort(byName), (name) => link(name)), false, names.length)),
    element("h3", null, "Games"),
    folded(many(holdersOf.size, "game"), () => list([...holdersOf.keys()].map((game) => [titleOf(game), game])
      .sort(([one], [other]) => byName(one, other)), ([title, game]) => gameLink(game, title))),
  ].filter((part) => part !== "");
}

function colourOf(kind) {
  return data.kinds.includes(kind) ? kind : "other";
}

// Names of artifacts, those of one node folded.
function grouped(indices, sources) {
  const byNode = new Map();
  [...indices].forEach((index) => {
    const node = nodeOf.get(artifacts[index].name);
    byNode.set(node, [...(byNode.get(node) ?? []), artifacts[index].name]);
  });
  const lines = [...byNode].map(([node, names]) => names.length === 1
    ? element("p", null, link(names[0]))
    : folded(`${nodes[node].name} (${names.length})`, () => list(names, (name) => link(name))));
  return [...lines, ...[...(sources ?? [])].map((node) => element("p", null, link(nodes[node].name),
    nodes[node].members.length > 1 ? ` (${many(nodes[node].members.length, "file")})` : ""))];
}

function ways(start) {
  const up = upOf(start);
  const down = downOf(start);
  const parents = new Set(start.flatMap((index) => [...artifacts[index].parents]));
  const used = new Set(start.flatMap((index) => [...children[index]]));
  const sources = sourcesOf(start);
  return [
    element("h3", null, "Made from"),
    ...(parents.size + sources.size ? grouped(parents, sources) : [element("p", { class: "faint" }, "Nothing.")]),
    up.size > parents.size ? folded(`all the way up: ${many(up.size, "artifact")}`,
      () => element("div", null, grouped(up, sourcesOf([...start, ...up])))) : "",
    element("h3", null, "Used by"),
    ...(used.size ? grouped(used) : [element("p", { class: "faint" }, "Nothing yet.")]),
    down.size > used.size ? folded(`all the way down: ${many(down.size, "artifact")}`,
      () => element("div", null, grouped(down))) : "",
  ].filter((part) => part !== "");
}

function nodeView(number) {
  const node = nodes[number];
  const title = element("span", { class: `kind ${colourOf(node.kind)}` }, node.kind);
  if (node.kind === "sources") {
    const readers = readersOf(number);
    const digests = new Map(readers.flatMap((index) => artifacts[index].inputs.map(([name, sha]) => [name, sha])));
    return [
      ...heading(node.name, [title, `, ${many(node.members.length, "file")} that no rule made`]),
      element("h3", null, "Read by"), ...grouped(readers),
      element("h3", null, "Files"),
      list(node.members, (name) => [name, element("br"), digest(digests.get(name) ?? "")]),
    ];
  }
  const start = chosen(number, null);
  return [
    ...heading(node.name, [title, `, ${many(start.length, "artifact")}, made in ${costOf(start)}`]),
    element("h3", null, "Artifacts"),
    list(node.members, (name) => link(name)),
    ...ways(start),
  ];
}

function artifactView(index) {
  const artifact = artifacts[index];
  const fold = nodes[nodeOf.get(artifact.name)];
  const up = upOf([index]);
  const environment = data.environments[artifact.environment];
  const changed = artifact.inputs.filter((given) => given[4] === 1);
  const missing = artifact.inputs.filter((given) => given[4] === 2);
  const size = artifact.subjects.reduce((sum, subject) => sum + subject[2], 0);
  return [
    ...heading(artifact.name, [
      element("span", { class: `kind ${colourOf(artifact.kind)}` }, artifact.kind), `, made by ${artifact.rule}`]),
    fold.members.length > 1 ? element("p", { class: "faint" }, "One of ", link(fold.name)) : "",
    changed.length === 0 ? "" : element("p", { class: "warning" },
      `${many(changed.length, "input")} ${changed.length === 1 ? "has" : "have"} another record now than when `
      + "this was made: made again, or changed. `probeline audit verify` tells which."),
    missing.length === 0 ? "" : element("p", { class: "warning" },
      `${many(missing.length, "input")} ${missing.length === 1 ? "has" : "have"} no record any more.`),
    table([
      ...artifact.subjects.map(([name, sha, , files]) =>
        [name === artifact.name ? "digest" : name, [digest(sha),
          Object.keys(files).length ? folded(many(Object.keys(files).length, "file"), () =>
            list(Object.entries(files), ([file, own]) => [file, element("br"), digest(own)])) : ""]]),
      ["size", bytes(size)],
      ["made", artifact.finished.replace("T", " ").replace(/(\.\d+)?Z$/, " UTC")],
      ["cost", costWords(artifact.cost)],
      ["with all above", costOf([index, ...up])],
    ]),
    ...gamesOf(artifact),
    element("h3", null, "Parameters"),
    Object.keys(artifact.params).length === 0 ? element("p", { class: "faint" }, "None.")
      : table(Object.entries(artifact.params).map(([name, value]) => [name, element("code", null, plain(value))])),
    ...ways([index]),
    element("h3", null, "Record"),
    folded(many(artifact.inputs.length, "input"), () => list(artifact.inputs,
      ([name, sha, role, parent]) => [element("span", { class: "faint" }, `${role}: `), name,
        parent >= 0 ? [" (", link(artifacts[parent].name, "record"), ")"] : "", element("br"), digest(sha)].flat())),
    folded(`code: ${many(Object.keys(data.codes[artifact.code]).length, "file")}`, () =>
      list(Object.entries(data.codes[artifact.code]), ([file, sha]) => [file, " ", digest(sha)])),
    folded("environment", () => environmentView(environment)),
    folded("cost", () => table(Object.entries(artifact.cost).map(([name, value]) => [name, plain(value)]))),
    table([
      ["file", element("code", null, artifact.record[0])],
      ["sha256", digest(artifact.record[1])],
      ["identity", digest(artifact.record[2])],
    ]),
  ].filter((part) => part !== "");
}

function environmentView(environment) {
  const rows = [];
  for (const [name, value] of Object.entries(environment)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [inner, given] of Object.entries(value)) rows.push([inner, element("code", null, plain(given))]);
    } else {
      rows.push([name, element("code", null, plain(value))]);
    }
  }
  return table(rows);
}

function gamesOf(artifact) {
  const splits = Object.entries(artifact.games);
  if (splits.length === 0) return [];
  splits.sort(([one], [other]) => (SPLITS.indexOf(one) + 9) % 9 - (SPLITS.indexOf(other) + 9) % 9);
  const mine = ([, members]) => members.some((game) => gameOf[game] === state.game);
  return [element("h3", null, "Games"), ...splits.map(([split, members]) => folded(
    element("span", null, splitOf(split), ` ${many(members.length, "game")}`,
      mine([split, members]) ? element("b", null, ` with ${titleOf(state.game)}`) : ""),
    () => list(members, (game) => gameLink(gameOf[game], games[game][0]))))];
}

function gameView(game) {
  const name = firstName(game);
  const twins = [...namesOf.get(game)].filter((other) => other !== name);
  const others = [...contentsOf.get(name)].filter((other) => other !== game);
  const bySplit = new Map();
  for (const [index, split] of holdersOf.get(game)) bySplit.set(split, [...(bySplit.get(split) ?? []), index]);
  const splits = [...bySplit].sort(([one], [other]) => (SPLITS.indexOf(one) + 9) % 9 - (SPLITS.indexOf(other) + 9) % 9);
  return [
    ...heading(name, `A game, in ${many(new Set(holdersOf.get(game).map(([index]) => index)).size, "artifact")}.`),
    contentsOf.get(name).has(game) ? element("p", null, "content ", digest(game)) : "",
    others.length === 0 ? "" : element("p", { class: "warning" }, "Other games are called so, too: ",
      ...others.flatMap((other, at) => [at ? ", " : "", gameLink(other)])),
    twins.length === 0 ? "" : element("p", { class: "warning" },
      `The same content under another name: ${twins.join(", ")}`),
    ...splits.flatMap(([split, indices]) => [
      element("h3", null, split === "all" ? "Before the split" : splitOf(split)), ...grouped(indices)]),
  ].filter((part) => part !== "");
}

// ---- search

function found(text) {
  const words = text.toLowerCase().replace(/^game:/, "").split(/\s+/).filter(Boolean);
  if (words.length === 0) return null;
  const matches = (name) => words.every((word) => name.toLowerCase().includes(word));
  const hex = words.length === 1 && /^[0-9a-f]{6,}$/.test(words[0]) ? words[0] : null;
  const holds = (artifact) => hex !== null && (artifact.record[1].startsWith(hex)
    || artifact.subjects.some(([, sha, , files]) => sha.startsWith(hex)
      || Object.values(files).some((own) => own.startsWith(hex))));
  const onlyGames = text.trim().toLowerCase().startsWith("game:");
  return {
    artifacts: onlyGames ? [] : artifacts.filter((artifact) => matches(artifact.name) || holds(artifact))
      .map((artifact) => artifact.name),
    sources: onlyGames ? [] : nodes.filter((node) => node.kind === "sources" && matches(node.name))
      .map((node) => node.name),
    games: [...holdersOf.keys()].filter((game) => [...namesOf.get(game)].some(matches)
      || (hex !== null && game.startsWith(hex))),
  };
}

let active = 0;
let options = [];

function suggest() {
  const matching = found(input.value);
  const named = (name, what) => ({ name, what, choose: () => go(name, state.game) });
  options = matching === null ? [] : [
    ...[...matching.artifacts.slice(0, MOST_RESULTS)].map((name) => named(name, artifacts[artifactOf.get(name)].kind)),
    ...matching.sources.slice(0, 3).map((name) => named(name, "sources")),
    ...matching.games.slice(0, MOST_RESULTS).map((game) => (
      { name: titleOf(game), what: "game", choose: () => go("", game) })),
  ];
  // Whoever types a name in full means it.
  const exact = options.findIndex((option) => option.name === input.value.trim().replace(/^game:/, ""));
  active = Math.max(exact, 0);
  results.replaceChildren(...options.map((option, number) => {
    const line = element("li", { role: "option", id: `result-${number}` }, element("span", null, option.name),
      element("span", { class: "faint" }, option.what));
    line.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      choose(number);
    });
    return line;
  }));
  const hidden = matching === null ? 0
    : matching.artifacts.length + matching.sources.length + matching.games.length - options.length;
  if (matching !== null && (options.length === 0 || hidden > 0)) {
    const words = options.length ? `and ${many(hidden, "other")}` : "Nothing has this name.";
    results.append(element("li", { class: "none", role: "presentation" }, words));
  }
  results.hidden = matching === null;
  input.setAttribute("aria-expanded", String(matching !== null));
  point();
  paint(matching === null ? undefined : new Set([
    ...matching.artifacts.map((name) => nodeOf.get(name)), ...matching.sources.map((name) => nodeNamed.get(name)),
    ...matching.games.slice(0, MOST_LINES).flatMap((game) =>
      holdersOf.get(game).map(([index]) => nodeOf.get(artifacts[index].name)))]));
}

function point() {
  [...results.children].forEach((line, number) =>
    line.setAttribute("aria-selected", String(options.length > 0 && number === active)));
  if (options.length && !results.hidden) {
    input.setAttribute("aria-activedescendant", `result-${active}`);
    results.children[active].scrollIntoView({ block: "nearest" });
  } else {
    input.removeAttribute("aria-activedescendant");
  }
}

function choose(number) {
  const option = options[number];
  close();
  input.value = "";
  option?.choose();
  paint();
}

function close() {
  results.hidden = true;
  input.setAttribute("aria-expanded", "false");
}

input.addEventListener("input", suggest);
input.addEventListener("focus", () => input.value && suggest());
input.addEventListener("blur", () => {
  close();
  paint();
});
input.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (options.length) active = (active + (event.key === "ArrowDown" ? 1 : options.length - 1)) % options.length;
    point();
  } else if (event.key === "Enter" && !results.hidden) {
    choose(active);
  } else if (event.key === "Escape") {
    input.value = "";
    suggest();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== input) {
    event.preventDefault();
    input.focus();
  }
});

show(false);
