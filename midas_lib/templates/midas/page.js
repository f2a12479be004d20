"use strict";
// Everything here adds to a page that reads without it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Contents: open where there is room beside the text; the section being read is marked.
  const contents = document.querySelector(".contents");
  const wide = matchMedia("(min-width: 70rem)");
  const adapt = () => { contents.open = wide.matches; };
  wide.addEventListener("change", adapt);
  adapt();
  const links = new Map(all("a", contents).map((link) => [link.hash.slice(1), link]));
  const headings = all("h2[id]");
  const mark = () => {
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top < 120);
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(passed.at(-1)?.id)?.setAttribute("aria-current", "true");
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
  contents.addEventListener("click", (event) => {
    if (event.target.closest("a") && !wide.matches) contents.open = false;
  });

  // Code: one control for all of it.
  const fold = document.querySelector(".fold");
  const code = all("details.code");
  fold.hidden = code.length === 0;
  fold.addEventListener("click", () => {
    const open = fold.getAttribute("aria-pressed") !== "true";
    for (const block of code) block.open = open;
    fold.setAttribute("aria-pressed", open);
    fold.textContent = open ? "Hide all code" : "Show all code";
  });

  // Tables: a column's name sorts by it, a second time the other way round.
  const value = (cell) => {
    const text = cell.textContent.trim().replaceAll("−", "-").replaceAll(",", "");
    const number = text.match(/^[^\d-]*(-?\d+(\.\d+)?)/);
    return number ? Number(number[1]) : text;
  };
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? a - b : a.localeCompare(b);
  };
  for (const table of all("figure.table table")) {
    const body = table.tBodies[0];
    if (body.rows.length < 3) continue;
    const names = [...table.tHead.rows[0].cells];
    names.forEach((name, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...name.childNodes);
      name.append(button);
      button.addEventListener("click", () => {
        const down = name.getAttribute("aria-sort") === "ascending";
        for (const other of names) other.removeAttribute("aria-sort");
        name.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
        rows.sort(([a], [b]) => (down ? compare(b, a) : compare(a, b)));
        body.append(...rows.map(([, row]) => row));
      });
    });
  }

  // Matrices: the pictures behind a cell, by a click on it or from a list.
  for (const data of all("figure > script[type='application/json']")) {
    const figure = data.parentElement;
    const image = figure.querySelector("img");
    if (!image) continue;
    const { box: [left, upper, right, lower], columns, rows, cells } = JSON.parse(data.textContent);
    const label = document.createElement("label");
    const list = document.createElement("select");
    const pictures = document.createElement("img");
    label.append("See the images behind a cell: ", list);
    label.className = "behind";
    list.append(new Option("choose one, or click on it", ""));
    cells.forEach(({ text }, i) => list.append(new Option(text, i)));
    pictures.className = "behind";
    pictures.alt = "";
    pictures.hidden = true;
    data.after(label, pictures);
    const show = (i) => {
      list.value = i;
      pictures.hidden = i === "";
      if (i === "") return;
      pictures.src = `data:image/png;base64,${cells[i].png}`;
      pictures.alt = cells[i].text;
    };
    list.addEventListener("change", () => show(list.value));
    image.addEventListener("click", (event) => {
      const frame = image.getBoundingClientRect();
      const x = ((event.clientX - frame.x) / frame.width - left) / (right - left);
      const y = ((event.clientY - frame.y) / frame.height - upper) / (lower - upper);
      const [row, column] = [Math.floor(y * rows), Math.floor(x * columns)];
      const found = cells.findIndex((cell) => cell.row === row && cell.column === column);
      show(found < 0 ? "" : String(found));
    });
  }

  // Figures: the numbers of the point next to the pointer.
  for (const figure of all("figure[data-points]")) {
    const points = JSON.parse(figure.dataset.points);
    const image = figure.querySelector("img");
    const frame = document.createElement("div");
    const note = document.createElement("div");
    frame.className = "frame";
    note.className = "note";
    note.hidden = true;
    image.replaceWith(frame);
    frame.append(image, note);
    const show = (event) => {
      const box = image.getBoundingClientRect();
      const distance = ([x, y]) =>
        Math.hypot(event.clientX - box.x - x * box.width, event.clientY - box.y - y * box.height);
      const near = points.reduce((best, one) => (distance(one) < distance(best) ? one : best));
      note.hidden = distance(near) > 24;
      note.textContent = near[2];
      note.style.left = `${100 * near[0]}%`;
      note.style.top = `${100 * near[1]}%`;
      note.classList.toggle("left", near[0] > 0.6);
    };
    frame.addEventListener("pointermove", show);
    frame.addEventListener("pointerdown", show);
    frame.addEventListener("pointerleave", () => { note.hidden = true; });
  }
})();
