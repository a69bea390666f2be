(() => {
  "use strict";
  const specs = JSON.parse(document.getElementById("chart-specs").textContent);
  const phone = window.matchMedia("(max-width: 640px)");
  const refuse = () => Promise.reject(new Error("the report loads nothing"));
  const loader = { load: refuse, sanitize: refuse, http: refuse, file: refuse };

  const fitted = (spec) => {
    const copy = structuredClone(spec);
    for (const part of [copy, ...(copy.layer || [])]) {
      const encoding = part.encoding || {};
      const axis = encoding.y && encoding.y.axis;
      if (phone.matches && axis && axis.labelLimit) axis.labelLimit = Math.min(axis.labelLimit, 128);
      for (const channel of ["color", "shape"]) {
        const legend = phone.matches && encoding[channel] && encoding[channel].legend;
        if (legend) legend.columns = 1;
      }
    }
    return copy;
  };

  const draw = (host) =>
    window
      .vegaEmbed(host, fitted(specs[host.dataset.chart]), {
        renderer: "svg",
        actions: false,
        defaultStyle: false,
        loader,
        tooltip: { disableDefaultStyle: true },
      })
      .then(() => host.setAttribute("data-drawn", ""))
      .catch((error) => {
        host.textContent = "This chart could not be drawn; its numbers are in the table.";
        console.error(error);
      });

  const hosts = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => Promise.all(hosts.map(draw));
  drawAll().then(() => document.documentElement.setAttribute("data-ready", ""));
  phone.addEventListener("change", drawAll);
})();
