"use strict";
// What the pages of people share. Nothing from the data becomes HTML: rows and options are moved and hidden, never
// written.

// The chosen colours stay with the page when it is loaded anew, without anything stored outside its own history.
const themes = [...document.querySelectorAll("#themes input")];
const remember = () => {
  const chosen = themes.find((theme) => theme.checked);
  history.replaceState({ ...history.state, theme: chosen.id }, "");
};
const known = themes.find((theme) => theme.id === history.state?.theme);
if (known) known.checked = true;
themes.forEach((theme) => theme.addEventListener("change", remember));
window.addEventListener("hashchange", remember);

// On a phone the table of contents opens on demand; where there is room beside the page it stands open.
const contents = document.querySelector("nav details"), narrow = window.matchMedia("(max-width: 63.99rem)");
const fold = () => { if (contents) contents.open = !narrow.matches; };
narrow.addEventListener("change", fold);
fold();

// What is folded is printed, too.
window.addEventListener("beforeprint", () =>
  document.querySelectorAll("main details").forEach((part) => (part.open = true)));

// A click on a column's head sorts by it, a second click turns the order. A column is one of numbers where all
// of its cells begin with one, such as "1,000", "−0.05" or "0.791 (0.7 to 0.9)"; those without stay at the end.
const NUMBER = /^[+−-]?\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?(?=$|[\s%(])/;
const WITHOUT = /^(-|none\b.*)?$/s;
const numberIn = (text) => {
  const found = text.match(NUMBER);
  return found ? Number(found[0].replaceAll(",", "").replace("−", "-")) : null;
};
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[column].textContent.trim();
    const rows = [...body.rows], sign = down ? -1 : 1;
    const numeric = rows.every((row) => numberIn(text(row)) !== null || WITHOUT.test(text(row)));
    rows.sort((one, other) => {
      if (!numeric) return sign * text(one).localeCompare(text(other), "en", { numeric: true });
      const [first, second] = [numberIn(text(one)), numberIn(text(other))];
      return (first === null) - (second === null) || sign * (first - second);
    });
    body.append(...rows);
  }));
});

// A search hides what does not hold all of its words, in its heading and the sentences below it.
document.querySelectorAll("input[data-filters]").forEach((input) => {
  const parts = [...document.querySelectorAll(input.dataset.filters)];
  const count = input.closest(".filter").querySelector("[data-filtered]");
  const heads = parts.map((part) =>
    [...part.querySelectorAll(":scope > h3, :scope > p")].map((words) => words.textContent).join(" "));
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    parts.forEach((part, index) => {
      part.hidden = !words.every((word) => heads[index].toLowerCase().includes(word));
    });
    const shown = parts.filter((part) => !part.hidden).length;
    count.textContent = words.length ? `${shown} of ${parts.length}` : "";
  });
});
