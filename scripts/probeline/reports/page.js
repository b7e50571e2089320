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

// On a phone the table of contents opens on demand.
const contents = document.querySelector("nav details");
if (contents && window.matchMedia("(max-width: 63.99rem)").matches) contents.open = false;

// What is folded is printed, too.
window.addEventListener("beforeprint", () =>
  document.querySelectorAll("main details").forEach((part) => (part.open = true)));

// A click on a column's head sorts by it, numbers as numbers; a second click turns the order.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[column].textContent.trim();
    const number = (row) => parseFloat(text(row).replaceAll(",", "").replace("−", "-"));
    const numeric = head.classList.contains("number");
    const order = (one, other) => {
      if (!numeric) return text(one).localeCompare(text(other), "en", { numeric: true });
      const [first, second] = [number(one), number(other)];
      return (Number.isNaN(first) - Number.isNaN(second)) || first - second;
    };
    const rows = [...body.rows].sort((one, other) => (down ? -1 : 1) * order(one, other));
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
