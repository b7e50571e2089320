// A game, act by act. What is hidden comes from the data when it is asked for, as text nodes, and goes again.
const played = JSON.parse(document.getElementById("played").textContent);
const acts = [...document.querySelectorAll("#acts article")];
const numberOf = (act) => Number(act.id.slice(1));
const actAt = (event) => document.getElementById(`e${event}`);
const reveal = document.getElementById("reveal"), player = document.getElementById("player");
const phases = [...document.querySelectorAll("#controls input[name=phase]")];
const strip = document.getElementById("strip"), drawing = document.getElementById("chart");
const tells = document.getElementById("game").dataset.tells === "1";
const element = (name, text = null, style = "") => {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (style) made.className = style;
  return made;
};

// The words of an act in their shades, as the page has them for what is not hidden.
const coloured = (words) => {
  const text = element("div", null, "text tokens added");
  words.tokens.forEach(([token, score, style]) => {
    const part = element("i", token, style);
    part.title = (score < 0 ? "" : "+") + score.toFixed(2);
    text.append(part);
  });
  return text;
};
const scoreOf = (words) => element("span", (words.score < 0 ? "" : "+") + words.score.toFixed(2), `score added ${words.class}`);
const roleOf = new Map(played.players.map((one) => [one.name, one.role]));
const bad = (role) => ["werewolf", "mafia"].includes(role);

const showSecrets = () => {
  acts.forEach((act) => {
    const role = act.querySelector(".role"), one = played.players[act.dataset.actor];
    if (role && one && act.dataset.actor !== "") {
      role.textContent = one.role === "unknown" ? "" : one.role;
      role.classList.toggle("other", !bad(one.role));
    }
  });
  Object.entries(played.outed).forEach(([event, role]) => {
    const outed = actAt(event).querySelector(".outed");
    outed.textContent = ` and was a ${role}`;
    outed.classList.toggle("other", !bad(role));
  });
  played.secrets.forEach((secret) => {
    const act = actAt(secret.event), head = element("h4");
    const role = element("span", roleOf.get(secret.actor) ?? "", "role");
    role.classList.toggle("other", !bad(role.textContent));
    head.append(element("b", secret.actor), role, element("span", secret.verb, "verb"), element("b", secret.target));
    act.append(head);
    act.classList.add("secret");
    const numbers = played.players.map((one, number) => [one.name, number]).filter(([name]) => [secret.actor, secret.target].includes(name));
    act.dataset.who = numbers.map(([, number]) => number).join(" ");
    act.dataset.actor = numbers.find(([name]) => name === secret.actor)?.[1] ?? "";
  });
  Object.entries(played.words).forEach(([event, words]) => {
    const act = actAt(event), plain = act.querySelector(".text");
    act.querySelector("h4").append(scoreOf(words));
    if (plain && words.said) plain.hidden = true;
    act.append(coloured(words));
  });
  played.wrong.forEach((event) => actAt(event)?.querySelector(".score")?.classList.add("wrong"));
  Object.entries(played.reasoning).forEach(([event, text]) => actAt(event).append(element("p", text, "thought added")));
  const told = element("div", null, "added");
  told.id = "told";
  told.append(element("h4", `How it ended: ${played.winner}`));
  played.players.forEach((one) => {
    const line = element("p");
    line.append(element("b", one.name), ` ${one.role}`);
    if (one.told.length) line.append(element("small", ` · was told: ${one.told.join(" ")}`));
    told.append(line);
  });
  document.getElementById("acts").append(told);
};
const hideSecrets = () => {
  document.querySelectorAll("#acts .added").forEach((part) => part.remove());
  document.querySelectorAll("#acts .role, #acts .outed").forEach((part) => { part.textContent = ""; part.classList.remove("other"); });
  document.querySelectorAll("#acts .wrong").forEach((part) => part.classList.remove("wrong"));
  acts.forEach((act) => {
    const plain = act.querySelector(".text");
    if (plain) plain.hidden = false;
  });
  played.secrets.forEach((secret) => {
    const act = actAt(secret.event);
    act.replaceChildren();
    act.classList.remove("secret");
    delete act.dataset.who;
    delete act.dataset.actor;
  });
};

const filter = () => {
  const shown = new Set();
  const wanted = new Set(phases.filter((phase) => phase.checked).map((phase) => phase.value));
  acts.forEach((act) => {
    const empty = !act.childNodes.length;
    const theirs = player.value === "" || (act.dataset.who ?? "").split(" ").includes(player.value);
    act.hidden = empty || !theirs || !wanted.has(act.dataset.phase);
    if (!act.hidden) shown.add(act.dataset.part);
  });
  document.querySelectorAll("#acts h3").forEach((head) => { head.hidden = !shown.has(head.dataset.part); });
  follow();
};

// The strip: what the probe thinks of each suspect at the act that is being read.
let chart = null, here = null, drawnNarrow = null;
const open = () => reveal.checked || !tells;
const buttons = () => [...strip.querySelectorAll("button")];
const draw = () => {
  if (!strip) return;
  strip.replaceChildren();
  const veil = document.getElementById("veil");
  if (veil) veil.hidden = open();
  drawing.hidden = !open();
  chart = null;
  drawing.replaceChildren();
  if (!open()) return;
  drawnNarrow = isNarrow(drawing);
  chart = drawTimeline(drawing, played.suspects, played.threshold, { roles: reveal.checked });
  played.suspects.forEach((suspect, number) => {
    const button = element("button");
    button.type = "button";
    button.addEventListener("click", () => jump(1, (act) => act.dataset.actor === String(played.actors[number])));
    strip.append(button);
  });
};
// On a phone what stays on top is as high as the drawing below the names, folded or not.
const lid = () => (narrow.matches ? document.querySelector("#game aside").offsetHeight : 0);
const fates = acts.filter((act) => act.querySelector(".fate") && act.dataset.who).map((act) => [numberOf(act), Number(act.dataset.who)]);
const follow = () => {
  if (!strip || !chart) return;
  const end = window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 4;
  const top = end ? window.innerHeight : Math.max(Math.min(window.innerHeight * 0.45, 420), lid() + 60);
  const seen = acts.filter((act) => !act.hidden && act.getBoundingClientRect().top < top).at(-1);
  const event = seen ? numberOf(seen) : -1;
  chart.at(event);
  buttons().forEach((button, number) => {
    const suspect = played.suspects[number], last = suspect[3].filter((act) => act[0] <= event).at(-1);
    const role = reveal.checked ? ` (${suspect[1]})` : "";
    button.textContent = `${suspect[0]}${role} ${last ? (last[3] < 0 ? "−" : "+") + Math.abs(last[3]).toFixed(1) : "·"}`;
    const who = played.actors[number];
    button.className = [
      last ? played.shades[last[0]] : "none",
      fates.some(([when, gone]) => gone === who && when <= event) ? "out" : "",
      seen && seen.dataset.actor === String(who) ? "speaks" : "",
    ].join(" ");
  });
};

const SAID = ["statement", "reply", "callout"];
const jump = (direction, fits = () => true) => {
  const all = acts.filter((act) => !act.hidden && SAID.includes(act.dataset.type) && fits(act));
  if (!all.length) return;
  const at = here && !here.hidden ? numberOf(here) : acts.filter((act) => !act.hidden && act.getBoundingClientRect().top < 130).map(numberOf).at(-1) ?? -1;
  const next = direction > 0
    ? all.find((act) => numberOf(act) > at) ?? all[0]
    : all.filter((act) => numberOf(act) < at).at(-1) ?? all.at(-1);
  here?.classList.remove("here");
  here = next;
  here.classList.add("here");
  here.tabIndex = -1;
  here.focus({ preventScroll: true });
  document.documentElement.style.scrollPaddingTop = narrow.matches ? `${lid() + 32}px` : "";
  here.scrollIntoView({ block: "start" });
  follow();
};

reveal.addEventListener("change", () => {
  hideSecrets();
  if (reveal.checked) showSecrets();
  draw();
  filter();
});
[player, ...phases].forEach((control) => control.addEventListener("change", filter));
document.getElementById("before").addEventListener("click", () => jump(-1));
document.getElementById("after").addEventListener("click", () => jump(1));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") jump(1);
  if (event.key === "k") jump(-1);
});
let waiting = false;
const later = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; follow(); });
};
window.addEventListener("scroll", later, { passive: true });
// The drawing scales by itself; a phone sends this also while it scrolls.
window.addEventListener("resize", () => {
  if (chart && isNarrow(drawing) !== drawnNarrow) draw();
  later();
});
const folded = document.getElementById("drawing");
if (folded && narrow.matches) folded.open = false;
folded?.addEventListener("toggle", () => { draw(); follow(); });
// A browser may remember a switch when the page is loaded anew.
reveal.checked = false;
draw();
filter();
