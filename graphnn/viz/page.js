"use strict";
// Fills the figure with the numbers of one sample, as figure.py and paths.py do.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figure = read("figure"), scene = read("scene");
  const arrays = {
    u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array,
  };
  function unpacked(column) {
    const isPacked = Array.isArray(column) && column.length === 2 && column[0] in arrays;
    if (!isPacked) return column;
    const bytes = Uint8Array.from(atob(column[1]), (letter) => letter.charCodeAt(0));
    return new arrays[column[0]](bytes.buffer);
  }
  for (const [name, column] of Object.entries(scene)) scene[name] = unpacked(column);
  scene.roles = scene.roles.map((column) => Array.from(unpacked(column)));
  const { x, y, source, target, bend, weight, values, preactivations, scores } = scene;
  const numNeurons = x.length, numEdges = weight.length, traced = scene.samples.length > 0;
  const zero = 64, nan = 129;
  // plotly takes tags, entities and formulas out of any text.
  const plain = (name) => name.replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;").replaceAll("$", "&#36;");
  const labels = Array.from(scene.neurons, (neuron, i) =>
    (scene.names ? `${plain(scene.names[i])} (neuron ${neuron})` : `neuron ${neuron}`));
  const short = (number) => String(Number(number.toPrecision(5)));
  const format = (number) => number.toLocaleString("en");

  function strength(edge, sample) {
    if (scene.by === "score") {
      return scores[scores.length > numEdges ? sample * numEdges + edge : edge];
    }
    return scene.by === "weight"
      ? weight[edge] : weight[edge] * values[sample * numNeurons + source[edge]];
  }

  function shade(value, scale) {
    if (Number.isNaN(value)) return nan;
    if (!Number.isFinite(value)) return zero + Math.sign(value) * zero;
    const share = scale > 0 ? Math.min(Math.abs(value) / scale, 1) : 0;
    return zero + Math.sign(value) * Math.round(zero * Math.sqrt(share));
  }

  function neuronShade(neuron, sample) {
    return shade(values[sample * numNeurons + neuron], scene.reach[neuron]);
  }

  // Where things are does not change with the sample: each edge's path, and the points along it.
  const paths = new Array(numEdges);
  const hoverX = new Float64Array(numEdges * scene.points), hoverY = new Float64Array(hoverX.length);
  for (let edge = 0; edge < numEdges; edge++) {
    const x0 = x[source[edge]], y0 = y[source[edge]], x1 = x[target[edge]], y1 = y[target[edge]];
    const middleX = (x0 + x1) / 2, middleY = (y0 + y1) / 2 + 2 * bend[edge];
    const middle = bend[edge] ? `Q${middleX.toFixed(1)},${middleY.toFixed(1)} ` : "L";
    paths[edge] = `M${x0.toFixed(1)},${y0.toFixed(1)}${middle}${x1.toFixed(1)},${y1.toFixed(1)}`;
    for (let i = edge * scene.points; i < (edge + 1) * scene.points; i++) {
      const t = scene.shares[i], rest = 1 - t;
      hoverX[i] = rest * rest * x0 + 2 * t * rest * middleX + t * t * x1;
      hoverY[i] = rest * rest * y0 + 2 * t * rest * middleY + t * t * y1;
    }
  }

  const squares = new Map();
  for (const neuron of scene.crowded ? scene.roles.flat() : []) {
    const half = scene.size[neuron] / 2, across = half * scene.stretch;
    const left = (x[neuron] - across).toFixed(1), right = (x[neuron] + across).toFixed(1);
    const low = (y[neuron] - half).toFixed(1), high = (y[neuron] + half).toFixed(1);
    squares.set(neuron, `M${left},${low}H${right}V${high}H${left}Z`);
  }

  // Pairs of a key and one path of all that has it.
  function joined(keys, pieces) {
    const found = new Map();
    keys.forEach((own, i) => {
      if (!found.has(own)) found.set(own, []);
      found.get(own).push(pieces[i]);
    });
    return [...found].map(([own, parts]) => [own, parts.join("")]);
  }

  function edgePaths(sample, count) {
    const shades = Array.from({ length: count }, (_, i) => shade(strength(i, sample), scene.scale));
    const numShades = scene.shadeColors.length, strengthOf = (own) => Math.abs(own - zero);
    const seen = new Uint32Array(numShades);
    const keys = shades.map(
      (own) => Math.floor(seen[strengthOf(own)]++ / scene.run) * numShades + own);
    const runs = joined(keys, paths).map(
      ([key, path]) => ({ run: Math.floor(key / numShades), own: key % numShades, path }));
    // The signs take turns in being on top.
    runs.sort((a, b) => strengthOf(a.own) - strengthOf(b.own) || b.run - a.run
      || (a.run % 2 ? b.own - a.own : a.own - b.own));
    return runs.map(({ own, path }) => ({
      type: "path", layer: "below", path,
      line: { color: scene.shadeColors[own], width: scene.shadeWidths[own] },
    }));
  }

  function neuronPaths(sample) {
    const square = (path, color) => ({
      type: "path", layer: "below", path, fillcolor: color, line: { color: scene.ink, width: 0 },
    });
    if (!traced) {
      return scene.roles.map((neurons, role) => square(
        neurons.map((neuron) => squares.get(neuron)).join(""), scene.roleColors[role]));
    }
    const shades = scene.roles.flat().map((neuron) => neuronShade(neuron, sample));
    return joined(shades, [...squares.values()]).sort(([a], [b]) => a - b).map(
      ([own, path]) => square(path, scene.shadeColors[own]));
  }

  function edgeHover(sample, count) {
    const rows = new Array(count * scene.points), at = sample * numNeurons;
    for (let edge = 0; edge < count; edge++) {
      const row = [scene.edges[edge], labels[source[edge]], labels[target[edge]], weight[edge]];
      if (traced) {
        const value = values[at + source[edge]];
        row.push(value, values[at + target[edge]], weight[edge] * value);
      }
      if (scores) row[7] = strength(edge, sample);
      rows.fill(row, edge * scene.points, (edge + 1) * scene.points);
    }
    const points = count * scene.points;
    return { x: hoverX.subarray(0, points), y: hoverY.subarray(0, points), customdata: rows };
  }

  function neuronNumbers(neuron, sample) {
    const row = [labels[neuron], scene.level[neuron],
      scene.activations[scene.activation[neuron]], scene.biased[neuron] ? short(scene.bias[neuron]) : "none"];
    const at = sample * numNeurons + neuron;
    if (traced) row.push(values[at], preactivations[at]);
    return row;
  }

  function contents(sample, count) {
    const traces = [edgeHover(sample, count)];
    for (const image of scene.images) {
      const each = (give) => image.neurons.map((row) => row.map(give));
      traces.push({
        z: each((neuron) => (traced ? values[sample * numNeurons + neuron] : 0)),
        zmin: image.range[0], zmax: image.range[1],
        customdata: each((neuron) => neuronNumbers(neuron, sample)),
      });
    }
    scene.roles.forEach((neurons, role) => {
      const trace = {
        x: neurons.map((neuron) => x[neuron]), y: neurons.map((neuron) => y[neuron]),
        customdata: neurons.map((neuron) => neuronNumbers(neuron, sample)),
      };
      if (!scene.crowded) {
        const color = (neuron) => scene.shadeColors[neuronShade(neuron, sample)];
        trace.marker = {
          color: traced ? neurons.map(color) : scene.roleColors[role],
          size: neurons.map((neuron) => scene.size[neuron]),
        };
      }
      traces.push(trace);
    });
    return traces;
  }

  function draw(sample, count) {
    const filled = contents(sample, count);
    const data = figure.data.map((own, i) => {
      const more = filled[i];
      return more?.marker
        ? { ...own, ...more, marker: { ...own.marker, ...more.marker } } : { ...own, ...more };
    });
    const shapes = edgePaths(sample, count).concat(scene.crowded ? neuronPaths(sample) : []);
    const layout = { ...figure.layout, shapes };
    return Plotly.react("picture", data, layout, { responsive: true, scrollZoom: true, displaylogo: false });
  }

  const input = { sample: document.getElementById("sample"), edges: document.getElementById("edges") };
  const text = (id, words) => { document.getElementById(id).textContent = words; };
  text("caption", scene.caption);
  input.sample.max = Math.max(scene.samples.length - 1, 0);
  input.sample.value = scene.first;
  input.edges.max = numEdges;
  input.edges.value = numEdges;
  document.getElementById("samples").hidden = scene.samples.length < 2;

  let waiting = false;
  function update() {
    waiting = false;
    const sample = Number(input.sample.value), count = Number(input.edges.value);
    if (traced) text("sample-text", format(scene.samples[sample]));
    text("edges-text", `the ${format(count)} strongest`);
    return draw(sample, count);
  }
  // A slider that is dragged asks more often than the screen shows.
  for (const own of Object.values(input)) {
    own.addEventListener("input", () => {
      if (!waiting) requestAnimationFrame(update);
      waiting = true;
    });
  }
  update().then(() => requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("drawn"))));
})();
