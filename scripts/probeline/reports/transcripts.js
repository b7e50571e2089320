// Running suspicion over a game as a drawing: names and roles become text nodes, never HTML.
const isNarrow = (place) => place.clientWidth > 0 && place.clientWidth < 520;
const drawTimeline = (place, suspects, threshold, { roles = false } = {}) => {
  const make = (name, attributes = {}, text = null) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    if (text !== null) element.textContent = text;
    return element;
  };
  place.replaceChildren();
  place.classList.add("chart");
  place.classList.remove("one");
  const narrow = isNarrow(place);
  const [width, height] = narrow ? [360, 240] : [860, 300];
  const box = { left: 34, right: width - 12, top: 12, bottom: height - 26 };
  const acts = suspects.flatMap((suspect) => suspect[3]);
  const events = [...new Set(acts.map((act) => act[0]))].sort((one, other) => one - other);
  const values = [threshold, ...acts.map((act) => act[3])];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(high - low, 0.5) * 0.06;
  [low, high] = [low - room, high + room];
  const column = new Map(events.map((event, number) => [event, number]));
  const x = (event) => box.left + (box.right - box.left) * (events.length > 1 ? column.get(event) / (events.length - 1) : 0.5);
  const y = (value) => box.bottom - (box.bottom - box.top) * (value - low) / (high - low);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Mean score so far of ${suspects.length} suspects` });
  // Round values beside the lines, and where each turn begins below them.
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((one) => (high - low) / one <= 6) ?? 100;
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
    svg.append(make("line", { class: "grid", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
    svg.append(make("text", { x: box.left - 5, y: y(value) + 4, "text-anchor": "end" }, String(Math.round(value * 10) / 10).replace("-", "−")));
  }
  const firsts = new Map();
  [...acts].sort((one, other) => one[0] - other[0]).forEach((act) => firsts.has(act[1]) || firsts.set(act[1], act[0]));
  const every = Math.ceil(firsts.size / (narrow ? 6 : 14));
  let last = -Infinity;
  [...firsts].forEach(([turn, event], number) => {
    svg.append(make("line", { class: "grid", x1: x(event), x2: x(event), y1: box.top, y2: box.bottom }));
    if (number % every || x(event) - last < 22) return;
    last = x(event);
    svg.append(make("text", { x: x(event), y: height - 9, "text-anchor": number ? "middle" : "start" }, number ? String(turn) : `turn ${turn}`));
  });
  svg.append(make("line", { class: "threshold", x1: box.left, x2: box.right, y1: y(threshold), y2: y(threshold) }));
  const now = make("line", { class: "now", y1: box.top, y2: box.bottom, visibility: "hidden" });
  svg.append(now);
  // Roles in two colours; without them every suspect has a colour and a dash of its own.
  const look = (suspect, number) => roles && suspect[2] !== null
    ? (suspect[2] ? "c1" : "c0 dashed")
    : `c${number % 6}${["", " dashed", " dotted"][Math.floor(number / 6) % 3]}`;
  const final = (suspect) => suspect[3].at(-1)[3];
  const order = suspects.map((_, number) => number).sort((one, other) => final(suspects[other]) - final(suspects[one]));
  const lines = [], keys = [];
  suspects.forEach((suspect, number) => {
    const points = suspect[3].map((act) => `${x(act[0]).toFixed(1)},${y(act[3]).toFixed(1)}`);
    lines[number] = make("polyline", { class: `line ${look(suspect, number)}`, points: points.join(" ") });
    svg.append(lines[number]);
    // A single act is no line yet.
    if (suspect[3].length > 1) return;
    const [event, , , value] = suspect[3][0];
    svg.append(make("circle", { class: look(suspect, number), cx: x(event), cy: y(value), r: 3 }));
  });
  const list = document.createElement("ul");
  list.className = "keys";
  let chosen = -1;
  const choose = (number) => {
    chosen = number === chosen ? -1 : number;
    place.classList.toggle("one", chosen >= 0);
    lines.forEach((line, other) => line.classList.toggle("chosen", other === chosen));
    keys.forEach((key, other) => {
      key.classList.toggle("chosen", other === chosen);
      key.setAttribute("aria-pressed", String(other === chosen));
    });
  };
  order.forEach((number) => {
    const suspect = suspects[number], item = document.createElement("li"), key = document.createElement("button");
    const swatch = make("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" });
    swatch.append(make("line", { class: `line ${look(suspect, number)}`, x1: 0, x2: 26, y1: 4, y2: 4 }));
    const name = document.createElement("span"), value = document.createElement("b");
    name.textContent = suspect[0];
    value.textContent = (final(suspect) < 0 ? "−" : "+") + Math.abs(final(suspect)).toFixed(2);
    key.type = "button";
    key.className = "key";
    key.setAttribute("aria-pressed", "false");
    key.append(swatch, name, value);
    if (roles) {
      const role = document.createElement("small");
      role.textContent = suspect[1];
      key.append(role);
    }
    key.addEventListener("click", () => choose(number));
    lines[number].addEventListener("click", () => choose(number));
    keys[number] = key;
    item.append(key);
    list.append(item);
  });
  place.append(svg, list);
  return {
    // Where in the game a reader is: a line at the last act up to this event.
    at: (event) => {
      const seen = events.filter((one) => one <= event).at(-1);
      now.setAttribute("visibility", seen === undefined ? "hidden" : "visible");
      if (seen !== undefined) ["x1", "x2"].forEach((end) => now.setAttribute(end, x(seen)));
    },
  };
};

document.querySelectorAll(".timelines").forEach((part) => {
  const data = JSON.parse(part.querySelector("script").textContent);
  const select = part.querySelector("select"), roles = part.querySelector("input");
  const draw = () => drawTimeline(part.querySelector(".chart"), data.games[select.value][1], data.threshold, { roles: roles.checked });
  [select, roles].forEach((control) => control.addEventListener("change", draw));
  draw();
});
