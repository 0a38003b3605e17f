// From figures to places on an axis, and the figures at which an axis has its ticks.

/** A distance, of which less is better: it is drawn, like the BD-rates, as −10·log10 of it in dB. */
const distance = (name) => ({
  name, axis: name,
  toAxis: (value) => -10 * Math.log10(Math.max(1e-3, value)),
  show: (value) => `${name} ${value.toFixed(3)}`,
  ticks: (low, high) => logTicks(10 ** (-high / 10), 10 ** (-low / 10)).map((value) => [-10 * Math.log10(value), `${value}`]),
});

/** MS-SSIM crowds below 1, so it is drawn, like the BD-rates, as −10·log10(1 − MS-SSIM) dB. */
const MEASURES = {
  psnr_db: {
    name: "PSNR", axis: "PSNR, dB",
    toAxis: (value) => value,
    show: (value) => `PSNR ${value.toFixed(2)} dB`,
    ticks: (low, high) => roundTicks(low, high, 6).map((value) => [value, `${value}`]),
  },
  ms_ssim: {
    name: "MS-SSIM", axis: "MS-SSIM",
    toAxis: (value) => -10 * Math.log10(Math.max(1e-6, 1 - value)),
    show: (value) => `MS-SSIM ${value.toFixed(4)}`,
    ticks: (low, high) => similarityTicks(low, high),
  },
  ssimulacra2: {
    name: "SSIMULACRA2", axis: "SSIMULACRA2",
    toAxis: (value) => value,
    show: (value) => `SSIMULACRA2 ${value.toFixed(1)}`,
    ticks: (low, high) => roundTicks(low, high, 6).map((value) => [value, `${value}`]),
  },
  butteraugli: distance("Butteraugli 3-norm"),
  butteraugli_max: distance("Butteraugli maximum"),
};

/** About `count` round figures between `low` and `high`. */
function roundTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high + 1e-9; n += 1) ticks.push(Number((n * step).toPrecision(12)));
  return ticks;
}

function similarityTicks(low, high) {
  const ticks = [];
  for (let power = 1; power <= 6; power += 1) {
    for (const factor of [10, 5, 2]) {
      const loss = factor * 10 ** -(power + 1);
      const value = 1 - loss;
      const place = MEASURES.ms_ssim.toAxis(value);
      if (place >= low && place <= high) ticks.push([place, value.toFixed(factor === 10 ? power : power + 1)]);
    }
  }
  return ticks;
}

/** 1, 2 and 5 times the powers of ten between `low` and `high`. */
function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) {
      const value = Number((factor * 10 ** power).toPrecision(6));
      if (value >= low && value <= high) ticks.push(value);
    }
  }
  return ticks;
}

const RATE_SCALES = {
  log: {
    bounds: (low, high) => [low / 1.12, high * 1.12],
    place: (value, low, high) => Math.log(value / low) / Math.log(high / low),
    ticks: logTicks,
  },
  linear: {
    bounds: (low, high) => [0, high * 1.04],
    place: (value, low, high) => (value - low) / (high - low),
    ticks: (low, high) => roundTicks(low, high, 7),
  },
};

/** The bits per pixel at which the curve of `points` ({ x: bpp, y: distortion }, by rising x) reaches `y`, or null: linear in log bpp. */
function rateAt(points, y) {
  for (let i = 1; i < points.length; i += 1) {
    const [a, b] = [points[i - 1], points[i]];
    if ((a.y - y) * (b.y - y) <= 0 && a.y !== b.y) {
      const part = (y - a.y) / (b.y - a.y);
      return Math.exp(Math.log(a.x) + part * (Math.log(b.x) - Math.log(a.x)));
    }
  }
  return points.length === 1 && points[0].y === y ? points[0].x : null;
}
