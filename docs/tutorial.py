# %% [markdown]
# # vitq in an hour: one model, then runs, then a sweep
#
# A script and a notebook in one (percent format: Jupyter by jupytext, VS Code and PyCharm open it as it is). Everything
# is embedded, nothing is downloaded: a small ViT and scikit-learn's handwritten digits. Run it in an empty folder.
# `docs/api.md` describes every name that is used here.

# %% [markdown]
# ## A model with weights
# A run in full precision trains the embedded ViT on first use (about a minute), then it is cached. Any timm model of a
# supported family will do in its place: `timm.create_model("deit_tiny_patch16_224.fb_in1k", pretrained=True)`.

# %%
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import vitq

full = vitq.run("model=vit_digits", "method=fp32", "tracker=none")
model = full.float_model()
print(full.label, full.metrics.top1)

# %% [markdown]
# ## Images
# Normalized tensors (N, 3, S, S) with the model's own mean and std. The 8x8 scans become RGB images of 32x32 pixels; of
# each digit, every third image was kept from training.

# %%
digits = load_digits()
scans = [Image.fromarray(np.rint(scan * 255 / 16).astype(np.uint8)) for scan in digits.images]
pixels = np.stack([np.asarray(scan.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")) for scan in scans])
images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.3) / 0.37
labels = torch.from_numpy(digits.target)
rank = torch.tensor([int((labels[:i] == labels[i]).sum()) for i in range(len(labels))])  # among the images of its digit
calib, unseen = images[rank % 3 == 0][:64], rank % 3 == 2
test = DataLoader(TensorDataset(images[unseen], labels[unseen]), batch_size=64)

# %% [markdown]
# ## Quantize it
# A method, a bit-width, calibration images: a copy of the model with quantized weights and activations.

# %%
q = vitq.quantize(model, "repq_vit", bits="w4a4", images=calib)
scores = vitq.evaluate(q, test, reference=model)
print(f"top-1 {scores.top1:.1f} %, {scores.drop:.1f} points below full precision; agreement {scores.agreement:.1f} %")

# %% [markdown]
# Every quantized tensor is a site. The table says how well each is represented.

# %%
sites = q.sites()
print(sites.sort_values("sqnr_db").head(5)[["site", "kind", "quantizer", "bits", "sqnr_db"]])

# %% [markdown]
# ## Change the recipe
# A method is a mapping, the same as in its YAML file; `base` puts it on top of another one. Bits have exceptions by
# kind or by site.

# %%
finer = {"name": "finer", "base": "repq_vit", "kinds": {"value": {"granularity": "head"}}}
q = vitq.quantize(model, finer, bits={"weight": 4, "activation": 4, "kinds": {"probs": 8}}, images=calib)
print(q.config.method.name, q.config.bits.label, vitq.evaluate(q, test).top1)

# %% [markdown]
# ## Keep it
# A packed checkpoint holds codes at their bit-widths, no original weights. `save` wants to know how the model is built
# where the model itself does not tell: what `timm.create_model` was given.

# %%
kwargs = full.config.model.kwargs
q = vitq.quantize(model, "repq_vit", bits="w4a4", images=calib, architecture="vit_digits", model_kwargs=kwargs)
path = q.save("vit_w4.safetensors")
again = vitq.load(path)
print(path.stat().st_size, "bytes;", "equal" if torch.equal(again(calib), q(calib)) else "different")

# %% [markdown]
# ## Runs
# The same through configs: evaluated, recorded under `runs/`, computed once, also by `vitq run` on the command line.

# %%
run = vitq.run("model=vit_digits", "method=repq_vit", "bits=w4a4", "tracker=none")
print(run.signature, run.state, run.metrics.top1, len(run.predictions["correct"]), "images")

# %% [markdown]
# ## A sweep
# Methods × bits, a table, and whether one method is better than another, image by image. `launcher=inline`: in this
# process, where the model is loaded already; without it the demo starts workers of its own.

# %%
words = ("model=vit_digits", "method=minmax,repq_vit", "bits=w4a4,w3a3", "tracker=none", "launcher=inline")
sweep = vitq.sweep("demo", *words, name="tutorial")
print(sweep.table()[["method", "bits", "top1", "drop"]])
print(sweep.compare("repq_vit", "minmax")[["bits", "difference", "low", "high", "p_holm"]])
print(sweep.report(formats=("html", "md")))

# %% [markdown]
# ## Later
# The store is the truth: every run is found again, with its model.

# %%
best = vitq.store("runs").find(run.signature[:6])
print(best.model()(images[unseen][:8]).argmax(1).tolist(), labels[unseen][:8].tolist())
