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

  const add = (parent, tag, set) => {
    const element = Object.assign(document.createElement(tag), set);
    parent.append(element);
    return element;
  };

  // Tables: a column's name sorts by it, then the other way round, then as it was. Python has
  // written each cell's rank; what has none goes last.
  for (const table of all("figure.table table")) {
    const [body, names] = [table.tBodies[0], [...table.tHead.rows[0].cells]];
    const rows = [...body.rows];
    const quoted = (cell) => `"${cell.innerText.trim().replaceAll('"', '""')}"`;
    const caption = table.closest("figure").querySelector("figcaption");
    const csv = add(caption, "button", { type: "button", className: "csv", textContent: "CSV" });
    csv.setAttribute("aria-label", "Download this table as CSV");
    csv.addEventListener("click", () => {
      const lines = [...table.rows].map((row) => [...row.cells].map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([`\ufeff${lines.join("\n")}\n`], { type: "text/csv" }));
      link.download = `${document.title}, ${caption.querySelector("b")?.innerText ?? "table."}csv`;
      link.click();
    });
    if (rows.length < 3) continue;
    names.forEach((name, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...name.childNodes);
      name.append(button);
      button.addEventListener("click", () => {
        const order = { ascending: "descending", descending: "" }[name.ariaSort] ?? "ascending";
        for (const other of names) other.removeAttribute("aria-sort");
        if (order) name.ariaSort = order;
        const rank = (row) => Number(row.cells[column].dataset.rank ?? NaN);
        const sorted = rows.filter((row) => !Number.isNaN(rank(row)));
        const rest = rows.filter((row) => Number.isNaN(rank(row)));
        sorted.sort((a, b) => (order === "ascending" ? 1 : -1) * (rank(a) - rank(b)));
        body.append(...(order ? [...sorted, ...rest] : rows));
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

  // A picture that is wider than a telephone is moved sideways by the arrow keys, too.
  for (const box of all("figure:not(.table, .chart) > .scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }

  // Figures: the numbers of the point next to the pointer. A tap or click keeps them; the arrow
  // keys go along a line, and from line to line.
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  for (const figure of all("figure[data-lines]")) {
    const lines = JSON.parse(figure.dataset.lines);
    const image = figure.querySelector("img, svg");
    const frame = document.createElement("div");
    image.replaceWith(frame);
    frame.append(image);
    Object.assign(frame, { className: "frame", tabIndex: 0, role: "group" });
    frame.ariaLabel = "The figure's values: go through them with the arrow keys";
    const spot = add(frame, "div", { className: "spot", hidden: true });
    const note = add(frame, "div", { className: "note", role: "status", hidden: true });
    add(figure.querySelector("figcaption"), "span", {
      className: "hint",
      textContent: " For the numbers: point, tap, or use the arrow keys.",
    });
    let [at, kept] = [null, false];
    const show = (found) => {
      at = found;
      note.hidden = spot.hidden = !at;
      if (!at) return;
      const [across, down, text] = lines[at[0]][at[1]];
      const { width, height } = image.getBoundingClientRect();
      const [x, y] = [across * width, down * height];
      note.textContent = text;
      const [left, above] = [Math.min(x + 12, frame.clientWidth - note.offsetWidth), y - note.offsetHeight - 12];
      Object.assign(spot.style, { left: `${x}px`, top: `${y}px` });
      Object.assign(note.style, { left: `${Math.max(0, left)}px`, top: `${above > 0 ? above : y + 12}px` });
    };
    const near = (event) => {
      const box = image.getBoundingClientRect();
      let [found, least] = [null, 24];
      lines.forEach((line, i) => line.forEach(([x, y], j) => {
        const [dx, dy] = [event.clientX - box.x - x * box.width, event.clientY - box.y - y * box.height];
        if (Math.hypot(dx, dy) < least) [found, least] = [[i, j], Math.hypot(dx, dy)];
      }));
      return found;
    };
    frame.addEventListener("pointermove", (event) => { if (!kept) show(near(event)); });
    frame.addEventListener("pointerleave", () => { if (!kept) show(null); });
    frame.addEventListener("click", (event) => {
      const found = near(event);
      kept = found !== null;
      show(found);
    });
    frame.addEventListener("keydown", (event) => {
      if (event.key === "Escape") show(null);
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      kept = true;
      if (!at) return show([0, 0]);
      const line = (at[0] + step[0] + lines.length) % lines.length;
      const away = (point) => Math.abs(point[0] - lines[at[0]][at[1]][0]);
      const next = step[0]
        ? lines[line].reduce((best, point, j, all) => (away(point) < away(all[best]) ? j : best), 0)
        : Math.max(0, Math.min(at[1] + step[1], lines[line].length - 1));
      show([line, next]);
    });
    frame.addEventListener("blur", () => { kept = false; show(null); });
  }
})();
