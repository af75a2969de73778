"""Clip speed: `clip_coco` against a plain loop as Housing Passports v2 has it, in the same run, on the rendered street.

    python benchmarks/clip_speed.py [--photos 400] [--workers N]

The loop goes through all annotations for every photo, and decodes and cuts in one process. Both write the same bytes, which is checked.
"""
import argparse,json,os,random,resource,tempfile,time
from pathlib import Path
import pandas as pd
from PIL import Image
from hp_fastai.annotations import CATEGORY, HPV2_ATTRIBUTES
from hp_fastai.clip import clip_coco
from hp_fastai.street import render_street

def boxes_by_scan(coco):
    "For every photo, all annotations are looked through"
    for im in coco['images']: yield im, [a for a in coco['annotations'] if a['image_id']==im['id']]

def plain_loop(img_dir, ann_json, out_dir, buffer=100):
    rows = []
    for im,anns in boxes_by_scan(json.loads(Path(ann_json).read_text())):
        img = Image.open(img_dir/im['file_name'])
        for i,a in enumerate(anns):
            x,y,w,h = a['bbox']
            name = im['file_name'] if i==0 else f"{im['file_name'][:-4]}_{i}.jpg"
            (out_dir/name).parent.mkdir(parents=True, exist_ok=True)
            img.crop((max(0, int(x-buffer)), max(0, int(y-buffer)), min(int(x+w+buffer), img.width), min(int(y+h+buffer), img.height))).save(out_dir/name, quality=95)
            rows.append([im['id'], im['file_name'], [x, y, x+w, y+h], name, a['id'], *(a['attributes'][v] for v in HPV2_ATTRIBUTES.values())])
    pd.DataFrame(rows, columns=['img_id', 'file_name', 'box', 'image_name_clip', 'ann_id', *HPV2_ATTRIBUTES]).to_csv(out_dir/'cumulative_annos_left.csv')

def timed(f, *args, **kwargs):
    start = time.perf_counter(); res = f(*args, **kwargs)
    return time.perf_counter()-start, res

def line(what, seconds, n, base): print(f'{what:44} {seconds:8.2f} s {n/seconds:9.0f} photos/s {base/seconds:8.1f} x', flush=True)

def on_the_street(tmp, n_photos, workers):
    street = render_street(tmp/'street', n_photos=n_photos, seed=42, progress=False)
    args = street.img_dir, street.ann_json('left')
    n = len(json.loads(Path(args[1]).read_text())['images'])
    def clip(name, n_workers): return timed(clip_coco, *args, 'left', tmp/name, n_workers=n_workers, progress=False)
    base,_ = timed(plain_loop, *args, tmp/'plain')
    one,res = clip('one', 0)
    many,_ = clip('many', workers)
    again,_ = clip('many', workers)
    print(f'{n} photos of 640 x 480, {res.written} crops')
    line('plain loop', base, n, base); line('clip_coco, one process', one, n, base)
    line(f'clip_coco, {workers} processes', many, n, base); line('clip_coco, second run', again, n, base)
    for o in ['cumulative_annos_left.csv', *res.table.image_name_clip]:
        assert (tmp/'plain'/o).read_bytes()==(tmp/'one'/o).read_bytes()==(tmp/'many'/o).read_bytes(), o

def at_full_size(tmp, n_photos, n_boxes):
    "The json's share of the work, without a single photo: all are missing, which costs one look at the disk each"
    draw = random.Random(42)
    coco = dict(images=[dict(id=i, file_name=f'{i:07}.jpg') for i in range(n_photos)],
                annotations=[dict(id=i, image_id=draw.randrange(n_photos), bbox=[9,9,9,9], attributes={}) for i in range(n_boxes)])
    (tmp/'big.json').write_text(json.dumps(coco)); (tmp/'empty').mkdir(exist_ok=True)
    ours,res = timed(clip_coco, tmp/'empty', tmp/'big.json', 'left', tmp/f'big{n_photos}', labels=dict(label=CATEGORY), n_workers=0, progress=False)
    assert res.dropped==n_boxes
    scan = timed(lambda: sum(len(o) for _,o in boxes_by_scan(coco)))[0] if n_photos<=10_000 else None
    print(f'{n_photos:,} photos, {n_boxes:,} boxes, no picture opened: clip_coco {ours:.2f} s' + (f'; the scan alone {scan:.2f} s' if scan else ''), flush=True)

def memory(tmp, n_photos):
    "Peak memory of this process while it cuts hard links to one photo"
    (tmp/'links').mkdir(); Image.effect_noise((640,480), 64).convert('RGB').save(tmp/'one.jpg')
    for i in range(n_photos): os.link(tmp/'one.jpg', tmp/f'links/{i}.jpg')
    coco = dict(images=[dict(id=i, file_name=f'{i}.jpg') for i in range(n_photos)],
                annotations=[dict(id=i, image_id=i, bbox=[200,200,50,50], attributes={}) for i in range(n_photos)])
    (tmp/'links.json').write_text(json.dumps(coco))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    res = clip_coco(tmp/'links', tmp/'links.json', 'left', tmp/'links_out', labels=dict(label=CATEGORY), progress=False)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024
    print(f'{res.written:,} photos: peak memory grew by {grown:.0f} MB, {grown/n_photos*1024:.1f} KB a photo (one photo decoded: {640*480*3/1024:.0f} KB)')

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--photos', type=int, default=400, help='rendered photos, both sides together')
    p.add_argument('--workers', type=int, default=os.cpu_count(), help='processes')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        tmp = Path(d)
        memory(tmp, 2000)                            # first: a peak only ever grows
        on_the_street(tmp, args.photos, args.workers)
        at_full_size(tmp, 7_000, 12_000)             # the original data
        at_full_size(tmp, 70_000, 120_000)           # ten times as much: ten times as long, not a hundred
