'use strict';
// Shows, at the pointer or with the arrow keys, what the lines of a chart are there.
for (const figure of document.querySelectorAll('figure')) {
  const data = JSON.parse(figure.querySelector('script').textContent);
  const tip = figure.querySelector('.tip');
  for (const svg of figure.querySelectorAll('svg')) {
    const [left, top, width, height] = svg.dataset.plot.split(' ').map(Number);
    const make = (name, attributes) => {
      const element = document.createElementNS('http://www.w3.org/2000/svg', name);
      for (const key in attributes) element.setAttribute(key, attributes[key]);
      return element;
    };
    const cursor = make('g', { class: 'cursor', visibility: 'hidden' });
    svg.append(cursor);
    let at = -1;
    const hide = () => {
      at = -1;
      cursor.setAttribute('visibility', 'hidden');
      tip.style.visibility = 'hidden';
    };
    const show = (index) => {
      at = Math.max(0, Math.min(data.x.length - 1, index));
      const x = left + data.x[at] * width;
      cursor.replaceChildren(make('line', { x1: x, x2: x, y1: top, y2: top + height }));
      const head = document.createElement('b');
      head.textContent = data.heads[at];
      tip.replaceChildren(head);
      for (const series of data.series) {
        if (series.y[at] === null) continue;
        const colour = `var(--c-${series.colour})`;
        const dot = make('circle', { cx: x, cy: top + series.y[at] * height, r: 4.5 });
        dot.style.fill = colour;
        cursor.append(dot);
        const row = document.createElement('span');
        const name = document.createElement('i');
        name.textContent = series.name;
        name.style.color = series.colour === 'soft' ? 'var(--muted)' : colour;
        row.append(name, series.text[at]);
        tip.append(row);
      }
      cursor.setAttribute('visibility', 'visible');
      tip.style.visibility = 'visible';
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const place = x * scale + 14;
      const room = box.width - tip.offsetWidth;
      tip.style.left = `${place > room ? Math.max(0, x * scale - 14 - tip.offsetWidth) : place}px`;
      tip.style.top = `${svg.getBoundingClientRect().top - figure.getBoundingClientRect().top + top * scale + 4}px`;
    };
    const nearest = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width * svg.viewBox.baseVal.width - left) / width;
      let best = 0;
      data.x.forEach((place, index) => {
        if (Math.abs(place - x) < Math.abs(data.x[best] - x)) best = index;
      });
      show(best);
    };
    svg.setAttribute('tabindex', '0');
    svg.addEventListener('pointermove', nearest);
    svg.addEventListener('pointerdown', nearest);
    svg.addEventListener('pointerleave', hide);
    svg.addEventListener('blur', hide);
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key];
      if (event.key === 'Escape') hide();
      if (step === undefined) return;
      event.preventDefault();
      show(at < 0 && step > 0 && step < 1e9 ? 0 : at + step);
    });
  }
}
