/** @type {Record<string, string>} */
export const ERRORS = {
  "{user} needs {wanted}, and {fault}: {python} -m pip install -U {bound}":
    "{user} 需要 {wanted}，而{fault}：{python} -m pip install -U {bound}",
  "{what} is {kind}, not {value}": "{what} 是{kind}，不是 {value}",
  "{prefix}{name} is missing: it is {kind}": "缺少 {prefix}{name}：它是{kind}",
  "{what} has no setting {name}; it has {known}": "{what} 没有 {name} 这一项，它有 {known}",
};
