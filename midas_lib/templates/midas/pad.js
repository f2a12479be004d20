"use strict";
// Reads what one draws. `preprocess`, `logits`, `answer` and `oneHand` do what images.preprocess,
// network.Network and analysis.one_hand do. A variable, so that a notebook may run this twice.
var pad = (() => {
  const [WIDTH, HEIGHT, INK, SIZE, FINE] = [300, 225, 127, 28, 112];

  // The network's picture (28 x 28 values of 0-255) and geometry of a scan (225 x 300, bright ink).
  function preprocess(scan, mode, margin) {
    let [top, bottom, left, right] = [HEIGHT, 0, WIDTH, 0];
    scan.forEach((value, i) => {
      if (value <= INK) return;
      const [x, y] = [i % WIDTH, Math.floor(i / WIDTH)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    });
    const side = Math.max(bottom - top, right - left);
    let [centre, whole] = [[(left + right) / 2, (top + bottom) / 2], side * (1 + 2 * margin)];
    if (mode === "mnist") {
      let [mass, across, down] = [0, 0, 0];
      for (let y = top; y < bottom; y += 1) {
        for (let x = left; x < right; x += 1) {
          const value = scan[y * WIDTH + x];
          mass += value;
          across += value * (x - left + 0.5);
          down += value * (y - top + 0.5);
        }
      }
      [centre, whole] = [[left + across / mass, top + down / mass], (side * 28) / 20];
    }
    return { picture: window28(scan, centre, whole), geometry: [top / HEIGHT, bottom / HEIGHT] };
  }

  // Halves to the even neighbour, as OpenCV rounds.
  const rint = (value) => Math.round(value) - (value % 2 === 0.5 ? 1 : 0);

  // As cv2.warpAffine and cv2.resize do it: interpolated four times as fine, then means of 4 x 4.
  function window28(scan, centre, side) {
    const scale = Math.fround(FINE / side);
    const [dx, dy] = centre.map((c) => Math.fround(FINE / 2 - c * (FINE / side)));
    const at = (x, y) => (x < 0 || y < 0 || x >= WIDTH || y >= HEIGHT ? 0 : scan[y * WIDTH + x]);
    const fine = new Uint8Array(FINE * FINE);
    for (let v = 0; v < FINE; v += 1) {
      for (let u = 0; u < FINE; u += 1) {
        const x = (u - dx) / scale;
        const y = (v - dy) / scale;
        const [i, j] = [Math.floor(x), Math.floor(y)];
        const [a, b] = [x - i, y - j];
        const upper = (1 - a) * at(i, j) + a * at(i + 1, j);
        const lower = (1 - a) * at(i, j + 1) + a * at(i + 1, j + 1);
        fine[v * FINE + u] = rint((1 - b) * upper + b * lower);
      }
    }
    const picture = new Uint8Array(SIZE * SIZE);
    picture.forEach((_, i) => {
      const [x, y] = [4 * (i % SIZE), 4 * Math.floor(i / SIZE)];
      let sum = 0;
      for (let v = y; v < y + 4; v += 1) for (let u = x; u < x + 4; u += 1) sum += fine[v * FINE + u];
      picture[i] = rint(sum / 16);
    });
    return picture;
  }

  // A number of 16 bits: its sign, 5 bits of exponent, 10 of fraction.
  const half = (bits) => {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent ? ((1 << exponent) / 2 ** 25) * (1024 + fraction) : fraction / 2 ** 24;
    return bits >> 15 ? -size : size;
  };

  // The layers of an exported network, their weights as numbers.
  function unpack(network) {
    const numbers = (array) => {
      if (!array) return array;
      const text = atob(array.data);
      const bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
      if (array.bits === 32) return new Float32Array(bytes.buffer);
      return new Float32Array(new Uint16Array(bytes.buffer)).map(half);
    };
    const layers = network.layers.map((layer) => ({
      ...layer,
      depth: layer.kernel?.shape.at(-1),
      kernel: numbers(layer.kernel),
      bias: numbers(layer.bias),
    }));
    return { ...network, layers };
  }

  // What a layer's windows make of values (rows of columns of channels): `add` puts those at `from`
  // on, which stand at `tap` of a window, to the window's own at `to` on.
  function slide({ side, depth, data }, { size, strides, padding }, deep, fill, add) {
    const count = Math.ceil((padding === "same" ? side : side - size + 1) / strides);
    const first = -Math.floor(Math.max((count - 1) * strides + size - side, 0) / 2);
    const found = new Float32Array(count * count * deep).fill(fill);
    for (let window = 0; window < count * count; window += 1) {
      const [top, left] = [Math.floor(window / count), window % count].map((i) => i * strides + first);
      for (let tap = 0; tap < size * size; tap += 1) {
        const [y, x] = [top + Math.floor(tap / size), left + (tap % size)];
        if (y < 0 || x < 0 || y >= side || x >= side) continue;
        add(found, window * deep, data, (y * side + x) * depth, tap);
      }
    }
    return { side: count, depth: deep, data: found };
  }

  // Values (in,) times a matrix (in, out), plus the bias (out,).
  const linear = (values, { kernel, bias }) =>
    bias.map((start, o) => values.reduce((sum, v, i) => sum + v * kernel[i * bias.length + o], start));

  // What the picture alone tells, before the softmax.
  function logits(network, picture) {
    let values = { side: SIZE, depth: 1, data: Float32Array.from(picture, (v) => v / 255) };
    for (const layer of network.layers) {
      const { kind, size, kernel, bias } = layer;
      const { side, depth, data } = values;
      if (kind === "convolution") {
        const deep = layer.depth;
        values = slide(values, layer, deep, 0, (found, to, given, from, tap) => {
          for (let i = 0; i < depth; i += 1) {
            const [value, row] = [given[from + i], (tap * depth + i) * deep];
            if (value) for (let o = 0; o < deep; o += 1) found[to + o] += value * kernel[row + o];
          }
        });
        values.data = values.data.map((v, i) => Math.max(v + bias[i % deep], 0));
      } else if (kind === "largest") {
        values = slide(values, layer, depth, -Infinity, (found, to, given, from) => {
          for (let i = 0; i < depth; i += 1) found[to + i] = Math.max(found[to + i], given[from + i]);
        });
      } else if (kind === "average" || kind === "mean") {
        const whole = kind === "mean" ? { size: side, strides: 1, padding: "valid" } : layer;
        values = slide(values, whole, depth, 0, (found, to, given, from) => {
          for (let i = 0; i < depth; i += 1) found[to + i] += given[from + i] / whole.size ** 2;
        });
      } else if (kind === "linear") values.data = linear(data, layer);
    }
    return values.data;
  }

  function softmax(scores) {
    const largest = Math.max(...scores);
    const shares = Array.from(scores, (score) => Math.exp(score - largest));
    const whole = shares.reduce((a, b) => a + b);
    return shares.map((share) => share / whole);
  }

  // The probability of each class, of logits and, where the network takes it, of the geometry.
  function answer(network, told, geometry) {
    const last = network.layers.at(-1);
    if (last.kind !== "geometry") return softmax(told);
    const place = linear(Float32Array.from(geometry), last);
    return softmax(told.map((value, i) => value + place[i]));
  }

  const inverse = ([[a, b], [c, d]]) =>
    [[d, -b], [-c, a]].map((row) => row.map((value) => value / (a * d - b * c)));
  const plus = (a, b, times = 1) => a.map((row, i) => row.map((v, j) => v + times * b[i][j]));
  const times = (matrix, [x, y]) => matrix.map(([a, b]) => a * x + b * y);
  const sum = (rows) => rows.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);

  // Scores of the classes of characters by one writer, and how far from the mean their edges lie.
  function oneHand(told, geometry, { means, between, within, weight }, rounds = 10) {
    const precision = inverse(within);
    const posterior = (n) => inverse(plus(inverse(between), precision, n));
    const others = posterior(told.length - 1);
    const away = geometry.map(([t, b]) => means.map(([top, bottom]) => [t - top, b - bottom]));
    const score = (offsets, covariance) => {
      const [[a, b], [, d]] = inverse(covariance);
      return told.map((row, n) =>
        Array.from(row, (log, c) => {
          const [x, y] = [away[n][c][0] - offsets[n][0], away[n][c][1] - offsets[n][1]];
          return log - (weight / 2) * (a * x * x + 2 * b * x * y + d * y * y);
        }),
      );
    };
    let [scores, total] = [score(told.map(() => [0, 0]), plus(between, within)), [0, 0]];
    for (let round = 0; round < rounds; round += 1) {
      const own = scores.map((row, n) =>
        sum(softmax(row).map((p, c) => away[n][c].map((value) => p * value))),
      );
      total = sum(own);
      const rest = own.map(([x, y]) => times(others, times(precision, [total[0] - x, total[1] - y])));
      scores = score(rest, plus(within, others));
    }
    return { scores, offset: times(posterior(told.length), times(precision, total)) };
  }

  // The drawing surface's pixels as a scan, bright ink on black; null where nothing is drawn.
  function scanned(canvas) {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const step = canvas.width / WIDTH;
    const scan = new Uint8Array(WIDTH * HEIGHT);
    scan.forEach((_, i) => {
      const [x, y] = [step * (i % WIDTH), step * Math.floor(i / WIDTH)];
      let sum = 0;
      for (let v = y; v < y + step; v += 1) {
        for (let u = x; u < x + step; u += 1) sum += pixels[4 * (v * canvas.width + u) + 3];
      }
      scan[i] = Math.round(sum / step / step);
    });
    return scan.some((value) => value > INK) ? scan : null;
  }

  const spoken = (name) =>
    `${name >= "a" ? "small" : name >= "A" ? "capital" : "digit"} ${name}`;

  function start(root) {
    const find = (selector) => root.querySelector(selector);
    const data = [...root.querySelectorAll("script[type='application/json']")];
    const networks = []; // unpacked when they are first asked
    const [paper, seen] = root.querySelectorAll("canvas");
    const [guesses, kept, learn] = [find(".guesses"), find(".kept"), find("[type='checkbox']")];
    const choices = [...root.querySelectorAll("[type='radio']")];
    const context = paper.getContext("2d", { willReadFrequently: true });
    context.lineWidth = 60; // about the pen of the archive, on the same paper of 1200 x 900
    context.lineCap = context.lineJoin = "round";
    let [strokes, active, penned, waiting, current] = [[], null, false, 0, null];
    function chosen() {
      const i = choices.findIndex((choice) => choice.checked);
      networks[i] ??= { ...unpack(JSON.parse(data[i].textContent)), kept: [] };
      return networks[i];
    }

    function paint(canvas, picture) {
      const shown = new ImageData(SIZE, SIZE);
      picture?.forEach((value, i) => shown.data.set([value, value, value, 255], 4 * i));
      canvas.getContext("2d").putImageData(shown, 0, 0);
    }

    // Reads what is drawn, and once more what was kept.
    function look() {
      clearTimeout(waiting);
      const [network, scan] = [chosen(), scanned(paper)];
      current = scan && preprocess(scan, network.mode, network.margin);
      if (current) current.told = logits(network, current.picture);
      const all = [...network.kept, current].filter((one) => one);
      const hand = network.hands && learn.checked && all.length > 1 &&
        oneHand(all.map((one) => one.told), all.map((one) => one.geometry), network.hands);
      const answers = hand
        ? hand.scores.map(softmax)
        : all.map((one) => answer(network, one.told, one.geometry));
      const best = (shares) => network.classes[shares.indexOf(Math.max(...shares))];

      paint(seen, current?.picture);
      guesses.replaceChildren();
      const ranked = current ? answers.at(-1).map((p, i) => [p, network.classes[i]]) : [];
      ranked.sort(([a], [b]) => b - a);
      for (const [probability, name] of ranked.slice(0, 5)) {
        const entry = document.createElement("li");
        entry.textContent = `${name}  ${(100 * probability).toFixed(1)} %`;
        entry.style.setProperty("--share", probability);
        guesses.append(entry);
      }
      find("[role='status']").textContent = current
        ? `${spoken(ranked[0][1])}, ${Math.round(100 * ranked[0][0])} percent`
        : "Nothing is drawn.";
      kept.replaceChildren(
        ...network.kept.map(({ picture }, i) => {
          const [entry, canvas] = ["li", "canvas"].map((tag) => document.createElement(tag));
          canvas.width = canvas.height = SIZE;
          paint(canvas, picture);
          entry.append(canvas, best(answers[i]));
          return entry;
        }),
      );
      find(".hand").hidden = !network.hands;
      find(".caveat").hidden = network.classes.length > 10;
      find(".belief").textContent = hand ? belief(hand.offset, all.length, network.hands.means) : "";
    }

    function belief([top, bottom], count, means) {
      const height = means.reduce((whole, [t, b]) => whole + (b - t) / means.length, 0);
      const words = (value, more, less) => `${Math.round(Math.abs(100 * value))} % ${value > 0 ? more : less}`;
      const size = words((bottom - top) / height, "larger", "smaller");
      const place = words((top + bottom) / 2, "lower", "higher");
      return `What it believes about your hand, from ${count} characters: it writes ${size} than the ` +
        `archive's people, and stands ${place} on the paper.`;
    }

    function trace(points) {
      context.beginPath();
      context.moveTo(points[0][0] + 0.1, points[0][1]); // or a tap would leave no dot
      for (const [x, y] of points) context.lineTo(x, y);
      context.stroke();
    }
    function draw(all) {
      [strokes, active] = [all, null]; // a finger that still draws has ended
      context.clearRect(0, 0, paper.width, paper.height);
      strokes.forEach(trace);
      look();
    }

    const place = (event) => {
      const box = paper.getBoundingClientRect();
      const scale = paper.width / box.width;
      return [(event.clientX - box.x) * scale, (event.clientY - box.y) * scale];
    };
    paper.addEventListener("pointerdown", (event) => {
      penned ||= event.pointerType === "pen";
      const palm = penned && event.pointerType === "touch";
      if (active !== null || event.button || palm) return;
      active = event.pointerId;
      paper.setPointerCapture(active);
      clearTimeout(waiting);
      strokes.push([place(event)]);
      trace(strokes.at(-1));
    });
    paper.addEventListener("pointermove", (event) => {
      if (event.pointerId !== active) return;
      const events = event.getCoalescedEvents?.() ?? [];
      const points = (events.length ? events : [event]).map(place);
      trace([strokes.at(-1).at(-1), ...points]);
      strokes.at(-1).push(...points);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      paper.addEventListener(end, (event) => {
        if (event.pointerId !== active) return;
        active = null;
        waiting = setTimeout(look, 150); // another stroke may follow at once
      });
    }
    const does = {
      undo: () => draw(strokes.slice(0, -1)),
      clear: () => draw([]),
      next: () => {
        look();
        if (current) chosen().kept.push(current);
        draw([]);
      },
      forget: () => {
        chosen().kept = [];
        look();
      },
    };
    root.addEventListener("click", ({ target: { dataset } }) => {
      if (dataset.sample) draw(JSON.parse(dataset.sample));
      else does[dataset.does]?.();
    });
    for (const choice of [...choices, learn]) choice.addEventListener("change", look);
    [find(".dead").hidden, find(".works").hidden] = [true, false];
    look();
  }

  return { preprocess, unpack, logits, answer, oneHand, start };
})();
