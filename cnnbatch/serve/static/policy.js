// OpenSeadragon empties elements by setting their HTML to nothing. That, and nothing else, may be set.
if (window.trustedTypes) {
  const nothing = (text) => {
    if (text === "") return "";
    throw new TypeError("only nothing may be set as HTML");
  };
  trustedTypes.createPolicy("default", { createHTML: nothing });
}
