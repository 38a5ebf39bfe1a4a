"""Which target's plans a device takes, written from docs/bundle.md alone."""


def target_of(manifest, device):  # the target's name; None: the device runs none
    def runs(target):
        enough = all(most <= device["limits"][limit] for limit, most in target["limits"].items())
        return enough and set(target["needs"]) <= set(device["needs"])

    targets, text = manifest["targets"], "\n".join((device["name"], device["version"])).lower()
    own = [target for target in targets if any(words.lower() in text for words in target["devices"])]
    return next((target["name"] for target in (*own, *reversed(targets)) if runs(target)), None)
