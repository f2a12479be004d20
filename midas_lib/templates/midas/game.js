"use strict";
// Lets the reader read what a network read, and compares. A variable, as `pad` is.
var game = (() => {
  const Z = 1.959964; // 95 % of a normal distribution lie within so many standard deviations
  const MEASURES = {
    accuracy: (name) => name,
    case_merged_accuracy: (name) => name.toLowerCase(),
  };

  // As analysis.proportion_interval has it, Wilson's.
  function wilson(count, n) {
    const [share, more] = [count / n, Z ** 2 / n];
    const middle = (share + more / 2) / (1 + more);
    const half = (Z * Math.sqrt((share * (1 - share) + more / 4) / n)) / (1 + more);
    return { count, n, mean: share, low: middle - half, high: middle + half };
  }

  // The weighted mean of two intervals, its bounds as Zou and Donner combine theirs.
  function weighed([a, b], weight) {
    const away = (end) => Math.hypot(weight * (a[end] - a.mean), (1 - weight) * (b[end] - b.mean));
    const mean = weight * a.mean + (1 - weight) * b.mean;
    return { mean, low: mean - away("low"), high: mean + away("high") };
  }

  // What reader and network read right, by measure: of all that was asked, of what the network reads
  // right and of what it misreads, and weighed as these two come in the whole.
  function score(asked, answers, whole) {
    const rows = asked.map(([label, network], i) => ({ label, network, reader: answers[i] }));
    const right = rows.filter(({ label, network }) => label === network);
    const wrong = rows.filter(({ label, network }) => label !== network);
    const found = {};
    for (const [measure, same] of Object.entries(MEASURES)) {
      const count = (some, who) => some.filter((row) => same(row[who]) === same(row.label)).length;
      const both = (some) => ({
        reader: wilson(count(some, "reader"), some.length),
        network: wilson(count(some, "network"), some.length),
      });
      const [all, known, missed] = [rows, right, wrong].map(both);
      // What chose the rows is no estimate: of the network's only the share of errors of case is.
      const { mean } = missed.network;
      Object.assign(known.network, { low: 1, high: 1 });
      if (measure === "accuracy") Object.assign(missed.network, { low: mean, high: mean });
      const share = right.length / rows.length;
      Object.assign(all.network, weighed([known.network, missed.network], share));
      found[measure] = {
        all, right: known, misread: missed,
        whole: {
          reader: weighed([known.reader, missed.reader], whole.accuracy),
          network: wilson(whole[measure] * whole.images, whole.images),
        },
      };
    }
    return found;
  }

  const percent = (value) => (100 * value).toFixed(0);
  const words = ({ mean, low, high }) => `${percent(mean)}\u202f%` +
    (low === high ? ", by\u00a0construction" : ` [${percent(low)},\u00a0${percent(high)}]`);

  const add = (parent, tag, text, set) => {
    const element = Object.assign(document.createElement(tag), set);
    element.textContent = text;
    parent.append(element);
    return element;
  };

  function start(root) {
    const find = (selector) => root.querySelector(selector);
    const given = JSON.parse(find("script[type='application/json']").textContent);
    const asked = JSON.parse(atob(given.answers));
    const [desk, image, input, result] = [".desk", "img", "input", ".score"].map(find);
    const keys = new Map([...root.querySelectorAll("[data-name]")].map((key) => [key.dataset.name, key]));
    const answers = [];
    const source = (i) => `data:image/png;base64,${given.pictures[i]}`;

    function ask(said) {
      if (answers.length === asked.length) return tell();
      const where = `${answers.length + 1} of ${asked.length}`;
      image.src = source(answers.length);
      image.alt = `A handwritten character to be read, ${where}`;
      find("[role='status']").textContent = `${said} Now ${where}.`.trim();
    }
    function answer(name) {
      answers.push(name);
      ask(`You read ${keys.get(name).ariaLabel}.`);
    }

    function tell() {
      const found = score(asked, answers, given.whole);
      const { all, right, misread, whole } = found.accuracy;
      const of = ({ count, n }) => `${count} of ${n}`;
      find(".told").textContent = `You read ${of(all.reader)} right: ${of(right.reader)} of those that ` +
        `the network reads right, and ${of(misread.reader)} of those that it misreads.`;
      const images = given.whole.images.toLocaleString("en");
      const better = whole.reader.low > whole.network.mean ? "you are better"
        : whole.reader.high < whole.network.mean ? "the network is better" : "too close to call";
      find(".verdict").textContent = `Weighed as these two kinds come in all ${images} images, you would ` +
        `read about ${words(whole.reader)} of them; the network reads ${words(whole.network)}: ${better}.`;
      const measures = { accuracy: "Exactly", case_merged_accuracy: "Upper and lower case as one" };
      const sets = {
        all: `all ${all.reader.n}`, right: `${right.reader.n} it reads right`,
        misread: `${misread.reader.n} it misreads`,
        whole: `weighed as in all ${images}`,
      };
      for (const [measure, title] of Object.entries(measures)) {
        const body = add(find("table"), "tbody", "");
        add(add(body, "tr", ""), "th", title, { scope: "rowgroup", colSpan: 3 });
        for (const [set, called] of Object.entries(sets)) {
          const row = add(body, "tr", "");
          const { reader, network } = found[measure][set];
          add(row, "th", called, { scope: "row" });
          for (const one of [reader, network]) {
            add(row, "td", (set === "whole" ? "" : `${one.count}: `) + words(one));
          }
        }
      }
      asked.forEach(([label, network], i) => {
        const className = answers[i] === label ? "" : "caveat";
        const entry = add(find(".kept"), "li", "", { className });
        add(entry, "img", "", { src: source(i), alt: "", width: 80, height: 60 });
        add(entry, "span", `${label}: you ${answers[i]}, it ${network}`);
      });
      [desk.hidden, result.hidden] = [true, false];
      result.focus();
    }

    const does = {
      begin: (button) => {
        [button.hidden, desk.hidden, image.hidden] = [true, false, false];
        ask("");
        desk.scrollIntoView({ block: "nearest" });
        input.focus({ preventScroll: true });
      },
      undo: () => {
        if (answers.length) ask(`Taken back: ${keys.get(answers.pop()).ariaLabel}.`);
      },
      save: () => {
        const said = asked.map(([label, network], i) => ({ label, network, reader: answers[i] }));
        const kept = {
          page: document.title, date: new Date().toISOString(), answers: said,
          score: score(asked, answers, given.whole),
        };
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([JSON.stringify(kept, null, 1)], { type: "application/json" }));
        link.download = `${document.title}, my answers.json`;
        link.click();
      },
    };
    root.addEventListener("click", ({ target }) => {
      if (target.dataset.name) answer(target.dataset.name);
      else does[target.dataset.does]?.(target);
    });
    root.addEventListener("keydown", (event) => {
      if (desk.hidden || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Backspace") does.undo();
      else if (!keys.has(event.key)) return;
      else if (!event.repeat) answer(event.key);
      event.preventDefault();
    });
    // What comes by no key, as from an input method.
    input.addEventListener("input", () => {
      const name = input.value.at(-1);
      input.value = "";
      if (keys.has(name)) answer(name);
    });
    root.hidden = false;
  }

  return { wilson, weighed, score, start };
})();
