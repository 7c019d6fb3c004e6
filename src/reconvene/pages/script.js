"use strict";
// Tables sort by a click on a heading, marks of charts say their value, and narrow screens get every column.
(() => {
  const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

  const valueOf = (cell) => {
    const text = cell.textContent.trim().replace(/\u2212/g, "-");
    const match = text.match(/^([-+±]?[\d.,]+(?:e[-+]?\d+)?)\s*([^\s\d]*)/);
    return match ? parseFloat(match[1].replace(/[,±]/g, "")) * (units[match[2]] ?? 1) : null;
  };

  const compare = (column, sign) => (one, other) => {
    const [a, b] = [one, other].map((row) => valueOf(row.cells[column]));
    if (a === null || b === null) {
      return a === b ? sign * one.cells[column].textContent.localeCompare(other.cells[column].textContent) : a === null ? 1 : -1;
    }
    return sign * (a - b);
  };

  const sortBy = (table, heading, column) => {
    const order = { none: "descending", descending: "ascending", ascending: "none" }[heading.getAttribute("aria-sort")];
    for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
    const rows = [...table.tBodies[0].rows].sort((one, other) => one.dataset.place - other.dataset.place);
    if (order !== "none") rows.sort(compare(column, order === "ascending" ? 1 : -1));
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows];
    for (const row of rows) [...row.cells].forEach((cell, i) => { if (row.cells.length === heads.length) cell.dataset.label = heads[i].textContent; });
    table.classList.add("labelled");
    if (rows.length < 2 || rows.some((row) => row.cells.length !== heads.length)) continue;  // rows that belong together stay so
    rows.forEach((row, i) => { row.dataset.place = i; });
    heads.forEach((heading, column) => {
      heading.setAttribute("aria-sort", "none");
      heading.tabIndex = 0;
      heading.title = "sort";
      heading.addEventListener("click", () => sortBy(table, heading, column));
      heading.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sortBy(table, heading, column); }
      });
    });
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
  };
  const marks = [...document.querySelectorAll("svg title")].map((title) => title.parentElement).filter((mark) => mark.tagName !== "svg");
  for (const mark of [...marks, ...document.querySelectorAll(".mark[title]")]) {
    const own = mark.querySelector(":scope > title");
    const text = own ? own.textContent : mark.title;
    if (own) own.remove(); else mark.removeAttribute("title");
    mark.setAttribute("aria-label", text);
    for (const name of ["pointerenter", "pointermove", "pointerdown"]) mark.addEventListener(name, (event) => show(text, event));
    mark.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
})();
