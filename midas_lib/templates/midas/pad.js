"use strict";
// Reads what one draws. `preprocess` and `answer` do what images.preprocess and the network do.
// A variable, so that a notebook may run this twice.
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

  // The layers of an exported network as tensors.
  function unpack(network) {
    const bytes = Uint8Array.from(atob(network.weights), (letter) => letter.charCodeAt(0));
    const weights = new Float32Array(bytes.buffer);
    const tensor = ({ shape, first }) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return tf.tensor(weights.subarray(first, first + size), shape);
    };
    const layers = network.layers.map((layer) => ({
      ...layer,
      kernel: layer.kernel && tensor(layer.kernel),
      bias: layer.bias && tensor(layer.bias),
    }));
    return { ...network, layers };
  }

  // The probability of each class.
  function answer(network, { picture, geometry }) {
    const probabilities = tf.tidy(() => {
      let values = tf.tensor4d(Float32Array.from(picture, (v) => v / 255), [1, SIZE, SIZE, 1]);
      let told = 0;
      for (const { kind, kernel, bias, size, strides, padding } of network.layers) {
        if (kind === "convolution") {
          values = tf.relu(tf.add(tf.conv2d(values, kernel, strides, "same"), bias));
        } else if (kind === "largest") values = tf.maxPool(values, size, strides, padding);
        else if (kind === "average") values = tf.avgPool(values, size, strides, padding);
        else if (kind === "flat") values = tf.reshape(values, [1, -1]);
        else if (kind === "mean") values = tf.mean(values, [1, 2]);
        else if (kind === "linear") values = tf.add(tf.matMul(values, kernel), bias);
        else told = tf.add(tf.matMul(tf.tensor2d(geometry, [1, 2]), kernel), bias);
      }
      return tf.softmax(tf.add(values, told)).dataSync();
    });
    return [...probabilities];
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

  function start(root) {
    const networks = [...root.querySelectorAll("script[type='application/json']")].map((data) =>
      unpack(JSON.parse(data.textContent)),
    );
    const [paper, seen] = root.querySelectorAll("canvas");
    const guesses = root.querySelector("ol");
    const choices = [...root.querySelectorAll("input")];
    const context = paper.getContext("2d", { willReadFrequently: true });
    context.lineWidth = 60; // about the pen of the archive, on the same paper of 1200 x 900
    context.lineCap = context.lineJoin = "round";
    let last = null;

    function look() {
      const network = networks[choices.findIndex((choice) => choice.checked)];
      const scan = scanned(paper);
      guesses.replaceChildren();
      seen.getContext("2d").clearRect(0, 0, SIZE, SIZE);
      if (!scan) return;
      const input = preprocess(scan, network.mode, network.margin);
      const shown = new ImageData(SIZE, SIZE);
      input.picture.forEach((value, i) => shown.data.set([value, value, value, 255], 4 * i));
      seen.getContext("2d").putImageData(shown, 0, 0);
      const ranked = answer(network, input).map((p, i) => [p, network.classes[i]]);
      ranked.sort(([a], [b]) => b - a);
      for (const [probability, name] of ranked.slice(0, 5)) {
        const entry = document.createElement("li");
        entry.textContent = `${name}  ${(100 * probability).toFixed(1)} %`;
        entry.style.setProperty("--share", probability);
        guesses.append(entry);
      }
    }

    const place = (event) => {
      const box = paper.getBoundingClientRect();
      const scale = paper.width / box.width;
      return [(event.clientX - box.x) * scale, (event.clientY - box.y) * scale];
    };
    paper.addEventListener("pointerdown", (event) => {
      paper.setPointerCapture(event.pointerId);
      last = place(event);
      draw(event);
    });
    const draw = (event) => {
      if (!last) return;
      const now = place(event);
      context.beginPath();
      context.moveTo(...last);
      context.lineTo(...now);
      context.stroke();
      last = now;
    };
    paper.addEventListener("pointermove", draw);
    for (const end of ["pointerup", "pointercancel"]) {
      paper.addEventListener(end, () => {
        if (last) look();
        last = null;
      });
    }
    root.querySelector("button").addEventListener("click", () => {
      context.clearRect(0, 0, paper.width, paper.height);
      look();
    });
    for (const choice of choices) choice.addEventListener("change", look);
  }

  return { preprocess, unpack, answer, start };
})();
