"""Photos and crops per second of `predict_photos`, beside a loop as Housing Passports v2 has it, on the same photos in the same run.

    python benchmarks/predict_speed.py [--photos 60] [--size 224] [--arch resnet10t] [--device cpu] [--workers N]

The loop: for each box, open the photo, cut, squash, predict one crop alone. Both give the same answers, which is checked.
"""
import argparse,tempfile
from pathlib import Path
from time import perf_counter
import numpy as np
import torch
from fastai.torch_core import default_device, set_seed
from PIL import Image
from hp_fastai.annotations import parse_box
from hp_fastai.bundle import load_bundle, save_bundle
from hp_fastai.clip import crop_box
from hp_fastai.model import PropertyModel
from hp_fastai.predict import predict_photos
from hp_fastai.schema import Schema
from hp_fastai.street import render_street


def one_by_one(bundle, img_dir, table):
    "Decode the photo anew for each box, and predict each crop in a batch of one"
    res = []
    for name,box in zip(table.image_name, table.boxes):
        crop = crop_box(Image.open(img_dir/name).convert('RGB'), parse_box(box))
        res.append([o[0].max().item() for o in bundle.probs(bundle.preprocess(crop)[None])])
    return np.array(res)


def seconds(f):
    "Result of `f` and the seconds it took"
    if torch.cuda.is_available(): torch.cuda.synchronize()
    start = perf_counter()
    res = f()
    return res,perf_counter()-start


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--photos', type=int, default=60)
    p.add_argument('--photo_size', type=int, nargs=2, default=(640,480))
    p.add_argument('--size', type=int, default=224, help='pixels of a side that the model is fed')
    p.add_argument('--arch', default='resnet10t')
    p.add_argument('--device', default=str(default_device()))
    p.add_argument('--workers', type=int, default=None)
    p.add_argument('--repeats', type=int, default=3)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        street = render_street(Path(tmp)/'street', n_photos=a.photos, size=tuple(a.photo_size), progress=False)
        set_seed(42)
        model = PropertyModel(Schema.housing_passports(), a.arch, pretrained=False)
        bundle = load_bundle(save_bundle(model, Path(tmp)/'m.safetensors', size=a.size), a.device)
        run = lambda: predict_photos(bundle, street.img_dir, street.ann_json('left'), num_workers=a.workers, progress=False).table
        table = run()                                                    # warms up
        n,times = table.image_name.nunique(),dict(ours=[], loop=[])
        for _ in range(a.repeats):                                       # in turns, so that other load hits both
            table,s = seconds(run); times['ours'].append(s)
            loop,s = seconds(lambda: one_by_one(bundle, street.img_dir, table)); times['loop'].append(s)
        ours = table[[f'p_{o}' for o in bundle.schema.names]].to_numpy()
        assert np.abs(loop-ours).max()<(1e-4 if a.device=='cpu' else .05), 'the two do not give the same answers'
    print(f'{a.arch}, {a.size} px, photos {a.photo_size[0]} x {a.photo_size[1]}, {n} photos, {len(table)} crops, {a.device}, {torch.get_num_threads()} threads, best of {a.repeats}')
    for k,v in times.items(): print(f'{k:5} {min(v):7.2f} s  {n/min(v):7.1f} photos/s  {len(table)/min(v):7.1f} crops/s')
    print(f"ratio {min(times['loop'])/min(times['ours']):.2f}")


if __name__=='__main__': main()
